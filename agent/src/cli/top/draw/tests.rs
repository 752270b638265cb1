//! Frames on a terminal that is memory.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::{Terminal, backend::TestBackend};

use super::*;
use crate::{
    flow::{FlowId, FlowTable, Side, join, testing},
    reason::{Reason, Refusal},
    survey::activity::{GroupBy, Latency, Rank, Row},
};

fn snapshot() -> Snapshot {
    let row = Row {
        name: "api.example.com".to_owned(),
        flows_per_second: 12.5,
        requests_per_second: 40.0,
        sent_per_second: 2048.0,
        received_per_second: 3.0 * 1024.0 * 1024.0,
        first_byte: Some(Latency { p50_us: 900, p95_us: 12_300 }),
        duration: Some(Latency { p50_us: 1_000_000, p95_us: 2_000_000 }),
        denied: 7,
        failed: 0,
        open: 3,
    };
    let idle = Row { name: "idle.example.com".to_owned(), open: 1, ..Row::default() };
    Snapshot {
        at: jiff::Timestamp::UNIX_EPOCH,
        seconds: 10.02,
        by: GroupBy::Host,
        total: Row { name: "total".to_owned(), ..row.clone() },
        rows: vec![row, idle],
        rows_left_out: 0,
        flows_left_out: 0,
    }
}

fn denied() -> PlacedFlow {
    let table = FlowTable::new(Side::Gateway, 1);
    let flow = testing::full(&table, FlowId::random(), Some("api.example.com"));
    flow.fail(&Refusal::new(Reason::PolicyDenied, "rule 0"));
    drop(flow);
    PlacedFlow::from(join(Vec::new(), table.records()).remove(0))
}

fn screen(width: u16, height: u16, scene: &Scene<'_>) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, scene)).unwrap();
    terminal
}

fn text(terminal: &Terminal<TestBackend>) -> String {
    let buffer = terminal.backend().buffer();
    let line = |y| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..buffer.area.height).map(|y| line(y).trim_end().to_owned() + "\n").collect()
}

fn scene<'a>(view: &'a View, snapshot: &'a Snapshot, content: Content<'a>) -> Scene<'a> {
    Scene { view, subject: "this machine", snapshot: Some(snapshot), content, trouble: &[] }
}

fn down(view: View, scene: &Scene<'_>) -> View {
    view.press(KeyEvent::new(KeyCode::Down, KeyModifiers::NONE), &scene.choices()).0
}

#[test]
fn rows_have_rates_latencies_and_outcomes() {
    let (view, snapshot) = (View::new(GroupBy::Host, Rank::Bytes), snapshot());
    let wide = text(&screen(130, 8, &scene(&view, &snapshot, Content::Rows)));
    for expected in [
        "the last 10.0 s  by host",
        "12.5 flows/s  40.0 requests/s  7 denied  0 failed  3 open  2.0 KiB/s sent  3.0 MiB/s received",
        "FLOWS/S",
        "900 µs   12.3 ms   1.00 s   2.00 s      7      0     3",
        "enter flows",
    ] {
        assert!(wide.contains(expected), "{expected:?} in\n{wide}");
    }
    let narrow = text(&screen(80, 8, &scene(&view, &snapshot, Content::Rows)));
    for (expected, there) in [
        ("api.example.com", true),
        ("DENIED", true),
        ("TOOK", false),
        ("OPEN", false),
        ("3 open  2.0 KiB/s sent\n", true),
        ("q quit", true),
    ] {
        assert_eq!(narrow.contains(expected), there, "{expected:?} in\n{narrow}");
    }
}

#[test]
fn the_chosen_row_is_reversed_and_denials_are_red() {
    let snapshot = snapshot();
    let view = View::default();
    let view = down(view.clone(), &scene(&view, &snapshot, Content::Rows));
    let terminal = screen(130, 8, &scene(&view, &snapshot, Content::Rows));
    let text = text(&terminal);
    let line = |text: &str, what: &str| text.lines().position(|line| line.starts_with(what)).unwrap() as u16;
    let buffer = terminal.backend().buffer();
    let reversed = |what| buffer[(0, line(&text, what))].modifier.contains(Modifier::REVERSED);
    assert!(reversed("idle.example.com") && !reversed("api.example.com"));
    let red = buffer.content().iter().filter(|cell| cell.fg == Color::Red).map(ratatui::buffer::Cell::symbol);
    let red: Vec<_> = red.collect();
    assert_eq!(red.concat(), "7 denied7", "in the totals and in the row");
}

#[test]
fn flows_and_their_story_are_those_of_the_other_verbs() {
    let (snapshot, flow) = (snapshot(), denied());
    let id = flow.joined.flow.id;
    let flows = || Content::Flows { flows: vec![&flow], places: false };
    let view = View::default();
    let enter = KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE);
    let (view, _) = view.clone().press(enter, &scene(&view, &snapshot, Content::Rows).choices());
    let list = text(&screen(150, 8, &scene(&view, &snapshot, flows())));
    for expected in ["flows of host api.example.com", "VERDICT", "denied", "policy_denied", "UPSTREAM"] {
        assert!(list.contains(expected), "{expected:?} in\n{list}");
    }
    let list = text(&screen(60, 8, &scene(&view, &snapshot, flows())));
    assert!(list.contains(&id.to_string()[..8]) && list.contains("denied"), "{list}");
    let none = Content::Flows { flows: Vec::new(), places: true };
    assert!(text(&screen(80, 8, &scene(&view, &snapshot, none))).contains("none is open any more"));
    let (view, effect) = view.clone().press(enter, &scene(&view, &snapshot, flows()).choices());
    assert_eq!(effect, crate::cli::top::view::Effect::Ask(id));
    let long = (0..50).map(|n| format!("line {n}")).collect::<Vec<_>>().join("\n");
    let story = text(&screen(120, 8, &scene(&view, &snapshot, Content::Story(&long))));
    assert!(story.contains(&format!("flow {id}")) && story.contains("line 0\n"), "{story}");
    let end = KeyEvent::new(KeyCode::End, KeyModifiers::NONE);
    let (view, _) = view.clone().press(end, &scene(&view, &snapshot, Content::Story(&long)).choices());
    let story = text(&screen(80, 8, &scene(&view, &snapshot, Content::Story(&long))));
    assert!(story.contains("line 49\n") && !story.contains("line 48\n"), "{story}");
}

#[test]
fn what_is_missing_and_a_pause_are_told() {
    let mut snapshot = snapshot();
    snapshot.flows_left_out = 5;
    let view = View { paused: true, ..View::default() };
    let trouble = ["flows of the gateway are missing here".to_owned()];
    let scene = Scene { trouble: &trouble, ..scene(&view, &snapshot, Content::Rows) };
    let text = text(&screen(100, 9, &scene));
    for expected in ["flows of the gateway are missing", "INCOMPLETE: 5 flows", "PAUSED"] {
        assert!(text.contains(expected), "{expected:?} in\n{text}");
    }
}

#[test]
fn no_terminal_is_too_small_and_no_list_too_empty() {
    let flow = denied();
    let mut empty = snapshot();
    empty.rows.clear();
    for (width, height) in [(1, 1), (3, 2), (20, 3), (64, 4), (80, 24), (400, 100)] {
        for help in [false, true] {
            let view = View { help, ..View::default() };
            for snapshot in [&empty, &snapshot()] {
                for content in [
                    Content::Rows,
                    Content::Flows { flows: vec![&flow], places: true },
                    Content::Story("a\nb"),
                ] {
                    screen(width, height, &scene(&view, snapshot, content));
                }
            }
            let nothing =
                Scene { view: &view, subject: "", snapshot: None, content: Content::Rows, trouble: &[] };
            screen(width, height, &nothing);
        }
    }
}

#[test]
fn the_help_names_every_key() {
    let view = View { help: true, ..View::default() };
    let snapshot = snapshot();
    let text = text(&screen(100, 24, &scene(&view, &snapshot, Content::Rows)));
    for expected in ["any of them closes this", "rows are hosts", "quit"] {
        assert!(text.contains(expected), "{expected:?} in\n{text}");
    }
}
