//! What the flows of a host, a workload or a rule did together: a row of `egret top`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Seen;
use crate::flow::Verdict;

/// What some flows did within the window. Rates are per second.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Row {
    /// The host, the workload, or reason and object.
    pub name: String,
    /// Flows that began.
    pub flows_per_second: f64,
    /// HTTP requests.
    pub requests_per_second: f64,
    /// Bytes from workloads.
    pub sent_per_second: f64,
    /// Bytes to workloads.
    pub received_per_second: f64,
    /// From accept to the first byte for the workload, of flows that got it within the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_byte: Option<Latency>,
    /// Of flows that ended within the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration: Option<Latency>,
    /// Flows that were denied within the window, or had a request that was.
    pub denied: u64,
    /// Flows that failed within the window, or had a request that did.
    pub failed: u64,
    /// Flows that are open.
    pub open: u64,
}

/// Percentiles, by nearest rank: times that flows really took. Microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Latency {
    /// Half of them took no longer.
    pub p50_us: u64,
    /// 19 of 20 took no longer.
    pub p95_us: u64,
}

impl Latency {
    pub(super) fn of(mut times: Vec<u64>) -> Option<Self> {
        times.sort_unstable();
        let rank = |percent: usize| times.get((times.len() * percent).div_ceil(100).checked_sub(1)?).copied();
        Some(Self { p50_us: rank(50)?, p95_us: rank(95)? })
    }
}

/// What rows are sorted by; the most of it comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rank {
    /// Flows a second.
    #[default]
    Flows,
    /// Requests a second.
    Requests,
    /// Bytes a second, both ways together.
    Bytes,
    /// 95th percentile of the first byte.
    FirstByte,
    /// 95th percentile of the duration.
    Duration,
    /// Denials and failures.
    Refused,
    /// The name, from A.
    Name,
}

impl Rank {
    /// Sorts; equals by name, so that rows stay where they are.
    pub(super) fn sort(self, rows: &mut [Row]) {
        let p95 = |latency: Option<Latency>| latency.map_or(0.0, |latency| latency.p95_us as f64);
        let key = |row: &Row| match self {
            Self::Flows => row.flows_per_second,
            Self::Requests => row.requests_per_second,
            Self::Bytes => row.sent_per_second + row.received_per_second,
            Self::FirstByte => p95(row.first_byte),
            Self::Duration => p95(row.duration),
            Self::Refused => (row.denied + row.failed) as f64,
            Self::Name => 0.0,
        };
        rows.sort_by(|a, b| key(b).total_cmp(&key(a)).then_with(|| a.name.cmp(&b.name)));
    }
}

/// Sums up flows, one after the other.
#[derive(Default)]
pub(super) struct Sum {
    began: u64,
    requests: u64,
    sent: u64,
    received: u64,
    first_bytes: Vec<u64>,
    durations: Vec<u64>,
    denied: u64,
    failed: u64,
    open: u64,
}

impl Sum {
    /// Adds what a flow did after `begin`.
    pub(super) fn add(&mut self, seen: &Seen, begin: Timestamp) {
        let within = |event: Option<Timestamp>| event.is_some_and(|at| at > begin);
        let record = &seen.flow.joined.flow;
        self.began += u64::from(within(seen.did.began));
        for moved in seen.did.moved.iter().filter(|moved| moved.at > begin) {
            self.requests += moved.requests;
            self.sent += moved.sent;
            self.received += moved.received;
        }
        self.first_bytes.extend(record.first_byte_us.filter(|_| within(seen.did.answered)));
        self.durations.extend(within(seen.did.ended).then_some(record.elapsed_us));
        let refused = within(seen.did.refused).then_some(record.verdict);
        self.denied += u64::from(refused == Some(Verdict::Denied));
        self.failed += u64::from(refused == Some(Verdict::Failed));
        self.open += u64::from(record.duration_ms.is_none());
    }

    /// As rates over so many seconds.
    pub(super) fn row(self, name: String, seconds: f64) -> Row {
        let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        Row {
            name,
            flows_per_second: rate(self.began),
            requests_per_second: rate(self.requests),
            sent_per_second: rate(self.sent),
            received_per_second: rate(self.received),
            first_byte: Latency::of(self.first_bytes),
            duration: Latency::of(self.durations),
            denied: self.denied,
            failed: self.failed,
            open: self.open,
        }
    }
}
