//! Snapshots one after the other, for programs and files.

use std::{io::Write as _, process::ExitCode, time::Duration};

use jiff::{Timestamp, tz::TimeZone};
use tokio::time::{self, MissedTickBehavior};

use super::{
    columns::{COLUMNS, rate, title},
    watch::Watch,
};
use crate::{
    cli::{
        args::{Format, Top},
        flows::asking::Roles,
        output,
    },
    survey::activity::{Row, Snapshot},
};

/// Prints one for each interval; the first when there is something to compare with.
pub(super) async fn run(
    roles: &Roles,
    mut watch: Watch,
    interval: Duration,
    arguments: &Top,
) -> anyhow::Result<ExitCode> {
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = Timestamp::now();
        let flows = roles.flows(&watch.question(asked)).await?;
        watch.answer(asked, flows);
        let snapshot = watch.activity.snapshot(arguments.by, arguments.sort);
        let Some(mut snapshot) = snapshot.filter(|snapshot| snapshot.seconds > 0.0) else { continue };
        if arguments.limit > 0 {
            snapshot.cut(arguments.limit);
        }
        match arguments.query.output.format {
            Format::Json => {
                let mut line = serde_json::to_vec(&snapshot)?;
                line.push(b'\n');
                std::io::stdout().lock().write_all(&line)?;
            }
            Format::Table => output::text(table(&snapshot))?,
        }
    }
}

fn table(snapshot: &Snapshot) -> String {
    let header: Vec<_> =
        std::iter::once(title(snapshot.by)).chain(COLUMNS.iter().map(|column| column.title)).collect();
    let mut table = output::table(&header);
    for row in snapshot.rows.iter().chain([&snapshot.total]) {
        table.add_row(cells(row));
    }
    let at = snapshot.at.to_zoned(TimeZone::system()).strftime("%H:%M:%S");
    let mut lines = vec![format!("{at}, the last {} s", rate(snapshot.seconds)), table.trim_fmt()];
    if snapshot.rows_left_out > 0 {
        let more = output::count(snapshot.rows_left_out, "more row");
        lines.push(format!("and {more}: --limit 0 shows all, filters show fewer"));
    }
    lines.extend(left_out(snapshot));
    lines.push(String::new());
    lines.join("\n")
}

fn cells(row: &Row) -> Vec<String> {
    std::iter::once(row.name.clone()).chain(COLUMNS.iter().map(|column| (column.cell)(row))).collect()
}

/// Says that not all flows are counted.
pub(super) fn left_out(snapshot: &Snapshot) -> Option<String> {
    (snapshot.flows_left_out > 0).then(|| {
        format!(
            "INCOMPLETE: {} or more are not counted, the oldest; filters show fewer",
            output::count(snapshot.flows_left_out, "flow")
        )
    })
}

#[cfg(test)]
mod tests {
    use crate::survey::activity::{GroupBy, Latency, Row, Snapshot};

    #[test]
    fn a_table_says_what_it_leaves_out() {
        let row = Row {
            name: "api.test".to_owned(),
            flows_per_second: 2.5,
            first_byte: Some(Latency { p50_us: 900, p95_us: 12_000 }),
            denied: 3,
            ..Row::default()
        };
        let mut snapshot = Snapshot {
            at: jiff::Timestamp::UNIX_EPOCH,
            seconds: 10.02,
            by: GroupBy::Host,
            total: Row { name: "total".to_owned(), ..row.clone() },
            rows: vec![row.clone(), row],
            rows_left_out: 0,
            flows_left_out: 0,
        };
        let whole = super::table(&snapshot);
        for expected in ["the last 10.0 s", "HOST", "api.test  2.5", "900 µs", "12.0 ms", "total"] {
            assert!(whole.contains(expected), "{expected:?} in\n{whole}");
        }
        assert!(!whole.contains("more row") && !whole.contains("INCOMPLETE"), "{whole}");
        snapshot.cut(1);
        snapshot.flows_left_out = 7;
        let part = super::table(&snapshot);
        assert!(part.contains("and 1 more row:") && part.contains("INCOMPLETE: 7 flows or more"), "{part}");
    }
}
