//! The columns of rows, and which of them a terminal has room for.

use std::collections::BTreeSet;

use crate::{
    cli::output::{self, microseconds},
    survey::activity::{GroupBy, Latency, Rank, Row},
};

/// A column of numbers.
pub(super) struct Column {
    pub(super) title: &'static str,
    pub(super) width: u16,
    /// What sorts by it.
    pub(super) rank: Option<Rank>,
    pub(super) cell: fn(&Row) -> String,
}

/// All of them; the name stands before them.
pub(super) const COLUMNS: [Column; 11] = [
    column("FLOWS/S", 8, Some(Rank::Flows), |row| rate(row.flows_per_second)),
    column("REQ/S", 8, Some(Rank::Requests), |row| rate(row.requests_per_second)),
    column("SENT/S", 10, Some(Rank::Bytes), |row| output::byte_rate(row.sent_per_second)),
    column("RECEIVED/S", 10, Some(Rank::Bytes), |row| output::byte_rate(row.received_per_second)),
    column("FIRST P50", 9, None, |row| time(row.first_byte.map(|latency| latency.p50_us))),
    column("FIRST P95", 9, Some(Rank::FirstByte), |row| p95(row.first_byte)),
    column("TOOK P50", 8, None, |row| time(row.duration.map(|latency| latency.p50_us))),
    column("TOOK P95", 8, Some(Rank::Duration), |row| p95(row.duration)),
    column("DENIED", 6, Some(Rank::Refused), |row| row.denied.to_string()),
    column("FAILED", 6, Some(Rank::Refused), |row| row.failed.to_string()),
    column("OPEN", 5, None, |row| row.open.to_string()),
];

/// Those that make room, the first first.
pub(super) const DISPENSABLE: [usize; 6] = [6, 7, 10, 1, 4, 5];

const fn column(title: &'static str, width: u16, rank: Option<Rank>, cell: fn(&Row) -> String) -> Column {
    Column { title, width, rank, cell }
}

/// Cells that a name gets at least: columns leave for it.
pub(super) const fn name_width(by: GroupBy) -> u16 {
    match by {
        GroupBy::Host | GroupBy::Workload => 24,
        GroupBy::Rule => 48,
    }
}

/// What the rows are, as a title.
pub(super) const fn title(by: GroupBy) -> &'static str {
    match by {
        GroupBy::Host => "HOST",
        GroupBy::Workload => "WORKLOAD",
        GroupBy::Rule => "RULE",
    }
}

/// A rate with as many digits as count.
pub(super) fn rate(per_second: f64) -> String {
    if per_second < 1000.0 { format!("{per_second:.1}") } else { format!("{per_second:.0}") }
}

fn p95(latency: Option<Latency>) -> String {
    time(latency.map(|latency| latency.p95_us))
}

fn time(us: Option<u64>) -> String {
    us.map_or_else(|| "-".to_owned(), microseconds)
}

/// The columns that fit into so many cells, with one between them, when the dispensable ones leave in this order.
pub(super) fn fitting(widths: &[u16], dispensable: &[usize], cells: u16) -> Vec<usize> {
    let mut kept: BTreeSet<usize> = (0..widths.len()).collect();
    let needed = |kept: &BTreeSet<usize>| kept.iter().map(|at| usize::from(widths[*at]) + 1).sum::<usize>();
    for leaving in dispensable {
        if needed(&kept) <= usize::from(cells) + 1 {
            break;
        }
        kept.remove(leaving);
    }
    kept.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_leave_until_the_others_fit() {
        let widths = [10, 5, 5];
        assert_eq!(fitting(&widths, &[2, 1], 22), [0, 1, 2]);
        assert_eq!(fitting(&widths, &[2, 1], 21), [0, 1]);
        assert_eq!(fitting(&widths, &[2, 1], 15), [0]);
        assert_eq!(fitting(&widths, &[2, 1], 3), [0], "the rest stays whatever happens");
    }

    #[test]
    fn rates_are_short() {
        assert_eq!([0.0, 0.04, 999.94, 12_345.6].map(rate), ["0.0", "0.0", "999.9", "12346"]);
    }
}
