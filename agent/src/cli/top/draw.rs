//! One frame of the live view. Decides nothing: `view` says where, `survey::activity` what.

use jiff::tz::TimeZone;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize as _},
    text::{Line, Span},
    widgets::{Block, Cell, Clear, Padding, Paragraph, Row, Table, TableState, Wrap},
};

use super::{
    columns::{COLUMNS, DISPENSABLE, fitting, name_width, rate, title},
    plain::left_out,
    view::{Choices, Depth, View},
};
use crate::{
    cli::{flows::table, output},
    flow::Verdict,
    survey::{activity::Snapshot, flows::PlacedFlow},
};

/// The columns of flows that make room, the first first: node, gateway, pod, then of the others those that the row, or `enter`, tells as well.
const DISPENSABLE_OF_FLOWS: [usize; 10] = [12, 13, 7, 11, 3, 8, 2, 9, 6, 4];

/// All that a frame shows.
pub(super) struct Scene<'a> {
    pub(super) view: &'a View,
    /// Who is watched.
    pub(super) subject: &'a str,
    pub(super) snapshot: Option<&'a Snapshot>,
    pub(super) content: Content<'a>,
    /// What is missing, and what went wrong.
    pub(super) trouble: &'a [String],
}

/// What fills the middle.
pub(super) enum Content<'a> {
    Rows,
    Flows { flows: Vec<&'a PlacedFlow>, places: bool },
    Story(&'a str),
}

impl Scene<'_> {
    /// What keys can choose from in this frame.
    pub(super) fn choices(&self) -> Choices {
        match &self.content {
            Content::Rows => {
                let rows = self.snapshot.into_iter().flat_map(|snapshot| &snapshot.rows);
                Choices::Rows(rows.map(|row| row.name.clone()).collect())
            }
            Content::Flows { flows, .. } => {
                Choices::Flows(flows.iter().map(|flow| flow.joined.flow.id).collect())
            }
            Content::Story(text) => Choices::Lines(text.lines().count()),
        }
    }
}

/// Draws it.
pub(super) fn draw(frame: &mut Frame<'_>, scene: &Scene<'_>) {
    let mut trouble: Vec<_> = scene.trouble.iter().map(String::as_str).collect();
    let incomplete = scene.snapshot.and_then(left_out);
    trouble.extend(incomplete.as_deref());
    let [head, totals, troubles, middle, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(u16::try_from(trouble.len().min(3)).unwrap_or(3)),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(heading(scene), head);
    frame.render_widget(sums(scene.snapshot, totals.width), totals);
    frame.render_widget(Paragraph::new(trouble.join("\n")).fg(Color::Red), troubles);
    match &scene.content {
        Content::Rows => rows(frame, middle, scene),
        Content::Flows { flows, places } => self::flows(frame, middle, scene, flows, *places),
        Content::Story(text) => {
            let line = if let Depth::Story { line, .. } = &scene.view.depth { *line } else { 0 };
            // Without the lines above, so that the last one can be reached however long the text is.
            let text = text.lines().skip(line).map(Line::from).collect::<Vec<_>>();
            frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }), middle);
        }
    }
    frame.render_widget(Line::from(keys(&scene.view.depth)).add_modifier(Modifier::DIM), foot);
    if scene.view.help {
        help(frame);
    }
}

fn heading(scene: &Scene<'_>) -> Line<'static> {
    let View { by, depth, paused, .. } = scene.view;
    let what = title(*by).to_lowercase();
    let place = match depth {
        Depth::Rows => format!("by {what}"),
        Depth::Flows { row, .. } => format!("flows of {what} {row}"),
        Depth::Story { id, .. } => format!("flow {id}"),
    };
    let mut spans = vec![Span::from("egret top").bold(), Span::from(format!("  {}", scene.subject))];
    if let Some(Snapshot { at, seconds, .. }) = scene.snapshot {
        let time = at.to_zoned(TimeZone::system()).strftime("%H:%M:%S");
        let measured = if *seconds > 0.0 {
            format!("  {time}, the last {} s", rate(*seconds))
        } else {
            format!("  {time}, measuring …")
        };
        spans.push(Span::from(measured));
    }
    if *paused {
        spans.push(Span::from("  PAUSED, p goes on").bold().fg(Color::Yellow));
    }
    // The last one: a name may be longer than the rest of the line.
    spans.push(Span::from(format!("  {place}")));
    Line::from(spans)
}

/// As many of the sums as there is room for, each whole: a part of a number is another number.
fn sums(snapshot: Option<&Snapshot>, width: u16) -> Line<'static> {
    let Some(Snapshot { total, .. }) = snapshot else { return Line::default() };
    let sums = [
        Span::from(format!("{} flows/s", rate(total.flows_per_second))),
        Span::from(format!("{} requests/s", rate(total.requests_per_second))),
        Span::styled(format!("{} denied", total.denied), alarm(total.denied, Color::Red)),
        Span::styled(format!("{} failed", total.failed), alarm(total.failed, Color::Yellow)),
        Span::from(format!("{} open", total.open)),
        Span::from(format!("{}/s sent", output::byte_rate(total.sent_per_second))),
        Span::from(format!("{}/s received", output::byte_rate(total.received_per_second))),
    ];
    let mut line = Line::default();
    for sum in sums {
        let gap = if line.spans.is_empty() { "" } else { "  " };
        if line.width() + gap.len() + sum.width() > width.into() {
            break;
        }
        line.extend([Span::from(gap), sum]);
    }
    line
}

fn alarm(count: u64, color: Color) -> Style {
    if count > 0 { Style::new().fg(color).bold() } else { Style::new() }
}

fn rows(frame: &mut Frame<'_>, area: Rect, scene: &Scene<'_>) {
    let Some(Snapshot { rows, by, .. }) = scene.snapshot else {
        frame.render_widget(Paragraph::new("asking …"), area);
        return;
    };
    if rows.is_empty() {
        frame.render_widget(Paragraph::new("no flow is open, and none ended within the window"), area);
        return;
    }
    let widths = COLUMNS.map(|column| column.width);
    let fitting = fitting(&widths, &DISPENSABLE, area.width.saturating_sub(name_width(*by) + 1));
    let columns: Vec<_> = fitting.into_iter().map(|at| &COLUMNS[at]).collect();
    let header = std::iter::once(Cell::from(title(*by))).chain(columns.iter().map(|column| {
        let sorted = column.rank == Some(scene.view.rank);
        let style = if sorted { Style::new().add_modifier(Modifier::UNDERLINED) } else { Style::new() };
        Cell::from(Line::from(Span::styled(column.title, style)).right_aligned())
    }));
    let longest = area.width.saturating_sub(columns.iter().map(|column| column.width + 1).sum());
    let body = rows.iter().map(|row| {
        let name = Cell::from(output::short(&row.name, longest.into()));
        Row::new(std::iter::once(name).chain(columns.iter().map(|column| {
            let style = match column.title {
                "DENIED" => alarm(row.denied, Color::Red),
                "FAILED" => alarm(row.failed, Color::Yellow),
                _ => Style::new(),
            };
            Cell::from(Line::from(Span::styled((column.cell)(row), style)).right_aligned())
        })))
    });
    let constraints = std::iter::once(Constraint::Min(0))
        .chain(columns.iter().map(|column| Constraint::Length(column.width)));
    let names: Vec<_> = rows.iter().map(|row| row.name.clone()).collect();
    list(
        frame,
        area,
        Table::new(body, constraints).header(Row::new(header).bold()),
        scene.view.row.place(&names),
    );
}

fn flows(frame: &mut Frame<'_>, area: Rect, scene: &Scene<'_>, flows: &[&PlacedFlow], places: bool) {
    if flows.is_empty() {
        frame.render_widget(Paragraph::new("none is open any more, and none ended within the window"), area);
        return;
    }
    let header = table::header(false, places);
    let cells: Vec<_> = flows.iter().map(|flow| table::cells(flow, false, places)).collect();
    let width = |text: &str| u16::try_from(text.chars().count()).unwrap_or(u16::MAX);
    let widest = |at: usize| cells.iter().map(|cells| width(&cells[at])).chain([width(header[at])]).max();
    let widths: Vec<_> = (0..header.len()).map(|at| widest(at).unwrap_or_default().min(40)).collect();
    let columns = fitting(&widths, &DISPENSABLE_OF_FLOWS, area.width);
    let body = flows.iter().zip(&cells).map(|(flow, cells)| {
        let style = match flow.joined.flow.verdict {
            Verdict::Allowed | Verdict::Bypassed => Style::new(),
            Verdict::Denied => alarm(1, Color::Red),
            Verdict::Failed => alarm(1, Color::Yellow),
        };
        Row::new(columns.iter().map(|at| {
            let style = if header[*at] == "VERDICT" { style } else { Style::new() };
            Cell::from(Span::styled(output::short(&cells[*at], widths[*at].into()), style))
        }))
    });
    let constraints = columns.iter().map(|at| Constraint::Length(widths[*at]));
    let heads = Row::new(columns.iter().map(|at| header[*at])).bold();
    let ids: Vec<_> = flows.iter().map(|flow| flow.joined.flow.id).collect();
    let place = if let Depth::Flows { flow, .. } = &scene.view.depth { flow.place(&ids) } else { None };
    list(frame, area, Table::new(body, constraints).header(heads), place);
}

fn list(frame: &mut Frame<'_>, area: Rect, table: Table<'_>, chosen: Option<usize>) {
    // Not a colour: some terminals have none, some people want none (NO_COLOR).
    let table = table.row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut TableState::new().with_selected(chosen));
}

const fn keys(depth: &Depth) -> &'static str {
    match depth {
        Depth::Rows => {
            // What a terminal of 80 columns has room for.
            "enter flows  h host  w workload  u rule  f r b l d x n sort  ? help  q quit"
        }
        Depth::Flows { .. } => "enter story  esc back  ↑ ↓ choose  p pause  ? help  q quit",
        Depth::Story { .. } => "esc back  ↑ ↓ scroll  p pause  ? help  q quit",
    }
}

const HELP: &str = "\
h w u     rows are hosts, workloads, rules (tab: the next)
enter     the flows of the row; of a flow its story
esc       back
↑ ↓ k j   choose, or scroll; also page up and down, home, end

first comes what has most:
f r b     flows, requests, bytes a second
l d       time to the first byte, duration (of 19 in 20)
x         denied and failed flows within the window
n         by name, from A

p         pause: nobody is asked until p, then it begins anew
q         quit";

fn help(frame: &mut Frame<'_>) {
    let area = frame.area();
    let lines = u16::try_from(HELP.lines().count()).unwrap_or(u16::MAX) + 2;
    let height = lines.min(area.height.saturating_sub(2));
    let width = 64.min(area.width);
    let place = Rect { x: (area.width - width) / 2, y: 1, width, height }.intersection(area);
    frame.render_widget(Clear, place);
    let block = Block::bordered().padding(Padding::horizontal(1)).title(" keys; any of them closes this ");
    frame.render_widget(Paragraph::new(HELP).block(block), place);
}

#[cfg(test)]
mod tests;
