//! The map of `egret ui`: from which namespace and workload, through which gateway, to which host, how fast, and what was refused.
//!
//! Pure. The bytes of a flow are spread evenly over its time, of which the part inside the window counts: one look at the flows is
//! enough for a rate, and nothing has to be remembered between two. Columns are bounded: what is left over is one place, "others".

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde::Serialize;

use super::flows::PlacedFlow;
use crate::flow::{FlowRecord, Verdict};

/// Places of a column that have a name of their own. Hosts can be made up by whoever is captured, and nobody can read more.
const MOST: usize = 30;

/// Of flows that did not get as far as a gateway.
const NO_GATEWAY: &str = "no gateway reached";

/// A span of time.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Its beginning.
    pub from: Timestamp,
    /// Its end.
    pub to: Timestamp,
}

impl Window {
    fn seconds(self) -> f64 {
        self.to.duration_since(self.from).as_secs_f64()
    }

    /// How much of a flow lies inside, from 0 to 1.
    fn share(self, flow: &FlowRecord) -> f64 {
        let lasted = flow.elapsed_us as f64 / 1e6;
        let start = flow.started.duration_since(self.from).as_secs_f64();
        if lasted <= 0.0 {
            return f64::from(u8::from((0.0..=self.seconds()).contains(&start)));
        }
        let inside = (start + lasted).min(self.seconds()) - start.max(0.0);
        (inside / lasted).clamp(0.0, 1.0)
    }
}

/// What moves between two places, or through one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Traffic {
    /// Flows that were open within the window.
    pub flows: usize,
    /// Those of them that are open.
    pub open: usize,
    /// Those that were denied.
    pub denied: usize,
    /// Those that were allowed, and broke.
    pub failed: usize,
    /// From the workload.
    pub sent_bytes_per_second: f64,
    /// To the workload.
    pub received_bytes_per_second: f64,
}

impl Traffic {
    fn add(&mut self, flow: &FlowRecord, window: Window) {
        self.flows += 1;
        self.open += usize::from(flow.duration_ms.is_none());
        self.denied += usize::from(flow.verdict == Verdict::Denied);
        self.failed += usize::from(flow.verdict == Verdict::Failed);
        let seconds = window.seconds();
        if seconds > 0.0 {
            let share = window.share(flow) / seconds;
            self.sent_bytes_per_second += flow.sent as f64 * share;
            self.received_bytes_per_second += flow.received as f64 * share;
        }
    }

    fn rate(&self) -> f64 {
        self.sent_bytes_per_second + self.received_bytes_per_second
    }
}

/// A place of a column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Place {
    /// Its name: of a workload `namespace/service-account`, of a host without one the address. Absent: the others of its column.
    pub name: Option<String>,
    /// How many others these are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub others: Option<usize>,
    /// What goes through it.
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// What goes from a place to one of the next column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Edge {
    /// Index of the place in its column.
    pub from: usize,
    /// Index of the place in the next column.
    pub to: usize,
    /// What goes along it.
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// Namespaces, workloads, gateways, hosts.
pub const COLUMNS: usize = 4;

/// The map.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrafficMap {
    /// Length of the window.
    pub window_seconds: f64,
    /// All of it.
    pub total: Traffic,
    /// Namespaces, workloads, gateways and hosts, each by name.
    pub columns: [Vec<Place>; COLUMNS],
    /// From each column to the next.
    pub edges: [Vec<Edge>; COLUMNS - 1],
}

/// Draws it. `flows` are those that were open within the window.
pub fn map(flows: &[PlacedFlow], window: Window) -> TrafficMap {
    let mut total = Traffic::default();
    let mut columns: [HashMap<String, Traffic>; COLUMNS] = Default::default();
    let ways: Vec<_> = flows.iter().map(|flow| (way(flow), &flow.joined.flow)).collect();
    for (way, flow) in &ways {
        total.add(flow, window);
        for (column, name) in columns.iter_mut().zip(way) {
            column.entry(name.clone()).or_default().add(flow, window);
        }
    }
    let columns = columns.map(Column::of);
    let mut edges: [BTreeMap<(usize, usize), Traffic>; COLUMNS - 1] = Default::default();
    for (way, flow) in &ways {
        let mut at = columns.iter().zip(way).map(|(column, name)| column.index(name));
        let Some(mut from) = at.next() else { continue };
        for (edges, to) in edges.iter_mut().zip(at) {
            edges.entry((from, to)).or_default().add(flow, window);
            from = to;
        }
    }
    let edge = |((from, to), traffic)| Edge { from, to, traffic };
    TrafficMap {
        window_seconds: window.seconds(),
        total,
        columns: columns.map(|column| column.places),
        edges: edges.map(|edges| edges.into_iter().map(edge).collect()),
    }
}

/// Its place in every column.
fn way(flow: &PlacedFlow) -> [String; COLUMNS] {
    let record = &flow.joined.flow;
    let (namespace, account) = (record.workload.namespace(), record.workload.service_account());
    let tunnel = record.legs.tunnel.as_deref().map(|leg| leg.connection.gateway.to_string());
    [
        namespace.to_owned(),
        format!("{namespace}/{account}"),
        flow.gateway_pod.clone().or(tunnel).unwrap_or_else(|| NO_GATEWAY.to_owned()),
        record.host.as_deref().map_or_else(|| record.original_destination.to_string(), str::to_owned),
    ]
}

struct Column {
    places: Vec<Place>,
    named: HashMap<String, usize>,
}

impl Column {
    /// Keeps those that count most: those with most refusals, up to half of the room, and those with most bytes. By name, so that they
    /// stay where they are from one look to the next.
    fn of(all: HashMap<String, Traffic>) -> Self {
        let mut all: Vec<_> = all.into_iter().collect();
        let mut left_over = Vec::new();
        if all.len() > MOST {
            let refused = |traffic: &Traffic| traffic.denied + traffic.failed;
            all.sort_by(|(a, x), (b, y)| refused(y).cmp(&refused(x)).then_with(|| a.cmp(b)));
            let troubled = all.iter().take(MOST / 2).take_while(|(_, traffic)| refused(traffic) > 0).count();
            all[troubled..].sort_by(|(a, x), (b, y)| {
                y.rate().total_cmp(&x.rate()).then(y.flows.cmp(&x.flows)).then_with(|| a.cmp(b))
            });
            left_over = all.split_off(MOST);
        }
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        let named = all.iter().enumerate().map(|(index, (name, _))| (name.clone(), index)).collect();
        let place = |(name, traffic)| Place { name: Some(name), others: None, traffic };
        let mut places: Vec<_> = all.into_iter().map(place).collect();
        if !left_over.is_empty() {
            places.push(Place {
                name: None,
                others: Some(left_over.len()),
                traffic: left_over.iter().fold(Traffic::default(), |sum, (_, traffic)| sum.plus(traffic)),
            });
        }
        Self { places, named }
    }

    fn index(&self, name: &str) -> usize {
        self.named.get(name).copied().unwrap_or(self.named.len())
    }
}

impl Traffic {
    fn plus(self, other: &Self) -> Self {
        Self {
            flows: self.flows + other.flows,
            open: self.open + other.open,
            denied: self.denied + other.denied,
            failed: self.failed + other.failed,
            sent_bytes_per_second: self.sent_bytes_per_second + other.sent_bytes_per_second,
            received_bytes_per_second: self.received_bytes_per_second + other.received_bytes_per_second,
        }
    }
}

#[cfg(test)]
mod tests;
