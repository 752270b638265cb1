//! The window as it is now, in rows; and the flows behind a row.

use std::{cmp::Reverse, collections::HashMap};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    Activity, Seen,
    row::{Rank, Row, Sum},
};
use crate::{
    flow::{DecidedBy, FlowRecord},
    survey::flows::PlacedFlow,
};

/// What the flows of a row have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupBy {
    /// The host; where none is known, the address that was dialled.
    #[default]
    Host,
    /// Namespace and service account.
    Workload,
    /// The reason of the verdict, and the object that had the last word.
    Rule,
}

impl GroupBy {
    fn name(self, flow: &FlowRecord) -> String {
        match self {
            Self::Host => {
                flow.host.as_deref().map_or_else(|| flow.original_destination.to_string(), str::to_owned)
            }
            Self::Workload => format!("{}/{}", flow.workload.namespace(), flow.workload.service_account()),
            Self::Rule => match flow.decided_by.as_deref().and_then(DecidedBy::last_word) {
                Some(part) => format!("{} by {part}", flow.reason),
                None => flow.reason.to_string(),
            },
        }
    }
}

/// The window at one moment: a line of `egret top -o json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    /// Its end.
    pub at: Timestamp,
    /// Its length in seconds; 0: there is nothing to compare with yet.
    pub seconds: f64,
    /// What the rows are.
    pub by: GroupBy,
    /// Everything together.
    pub total: Row,
    /// One for each host, workload or rule, sorted.
    pub rows: Vec<Row>,
    /// Rows that are not shown.
    pub rows_left_out: usize,
    /// Flows that are in no row, since there were more than are remembered.
    pub flows_left_out: usize,
}

impl Activity {
    /// As it is after the last answer; before the first one there is nothing.
    pub fn snapshot(&self, by: GroupBy, rank: Rank) -> Option<Snapshot> {
        let (begin, at) = (*self.answers.front()?, *self.answers.back()?);
        let seconds = at.duration_since(begin).as_secs_f64();
        let mut total = Sum::default();
        let mut sums: HashMap<String, Sum> = HashMap::new();
        for seen in self.flows.values().filter(|seen| seen.counts(begin)) {
            total.add(seen, begin);
            sums.entry(by.name(&seen.flow.joined.flow)).or_default().add(seen, begin);
        }
        let mut rows: Vec<_> = sums.into_iter().map(|(name, sum)| sum.row(name, seconds)).collect();
        rank.sort(&mut rows);
        Some(Snapshot {
            at,
            seconds,
            by,
            total: total.row("total".to_owned(), seconds),
            rows,
            rows_left_out: 0,
            flows_left_out: self.left_out,
        })
    }

    /// The flows of a row, the newest first.
    pub fn flows(&self, by: GroupBy, name: &str) -> Vec<&PlacedFlow> {
        let Some(begin) = self.answers.front().copied() else { return Vec::new() };
        let of_row = self.flows.values().filter(|seen| seen.counts(begin)).map(|seen| &seen.flow);
        let mut flows: Vec<_> = of_row.filter(|flow| by.name(&flow.joined.flow) == name).collect();
        flows.sort_by_key(|flow| Reverse((flow.joined.flow.started, flow.joined.flow.id)));
        flows
    }
}

impl Seen {
    /// Whether it is open, or did something after `begin`.
    fn counts(&self, begin: Timestamp) -> bool {
        let events = [self.did.began, self.did.answered, self.did.ended, self.did.refused];
        self.flow.joined.flow.duration_ms.is_none()
            || events.into_iter().flatten().any(|at| at > begin)
            || !self.did.moved.is_empty()
    }
}

impl Snapshot {
    /// The first rows only.
    pub fn cut(&mut self, rows: usize) {
        self.rows_left_out = self.rows.len().saturating_sub(rows);
        self.rows.truncate(rows);
    }
}
