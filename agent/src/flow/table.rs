//! The flow table of one process: live flows and the most recent ended ones, bounded.
//!
//! A flow lives as a [`FlowHandle`]; dropping the handle ends it, so no path can forget to. Byte counts are relaxed
//! atomics on the data path; everything else is written a few times per flow under the flow's own lock.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use jiff::Timestamp;
use parking_lot::Mutex;

use super::{FlowId, FlowRecord, Side, Verdict};
use crate::{
    mesh::SpiffeId,
    reason::{Reason, Refusal},
};

/// Live and recent flows. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FlowTable {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    side: Side,
    recent_capacity: usize,
    flows: Mutex<Flows>,
}

#[derive(Debug, Default)]
struct Flows {
    live: HashMap<u64, Arc<Live>>,
    recent: VecDeque<FlowRecord>,
    next_key: u64,
}

#[derive(Debug)]
struct Live {
    key: u64,
    record: Mutex<FlowRecord>,
    started: tokio::time::Instant,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Live {
    fn snapshot(&self) -> FlowRecord {
        let mut record = self.record.lock().clone();
        record.sent = self.sent.load(Relaxed);
        record.received = self.received.load(Relaxed);
        record
    }
}

impl FlowTable {
    /// A table for one side that keeps `recent_capacity` ended flows.
    pub fn new(side: Side, recent_capacity: usize) -> Self {
        Self { shared: Arc::new(Shared { side, recent_capacity, flows: Mutex::default() }) }
    }

    /// A new flow.
    pub fn open(&self, id: FlowId, workload: SpiffeId, original_destination: SocketAddr) -> FlowHandle {
        let record = FlowRecord {
            id,
            side: self.shared.side,
            started: Timestamp::now(),
            duration_ms: None,
            workload,
            pod: None,
            original_destination,
            protocol: None,
            host: None,
            verdict: Verdict::Allowed,
            reason: Reason::Completed,
            detail: None,
            upstream_cluster: None,
            upstream_host: None,
            requests: 0,
            sent: 0,
            received: 0,
        };
        let mut flows = self.shared.flows.lock();
        let key = flows.next_key;
        flows.next_key += 1;
        let live = Arc::new(Live {
            key,
            record: Mutex::new(record),
            started: tokio::time::Instant::now(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        });
        flows.live.insert(key, Arc::clone(&live));
        FlowHandle { live, table: self.clone() }
    }

    /// Live flows and recent ones, oldest first.
    pub fn records(&self) -> Vec<FlowRecord> {
        let (live, mut records): (Vec<_>, Vec<_>) = {
            let flows = self.shared.flows.lock();
            (flows.live.values().cloned().collect(), flows.recent.iter().cloned().collect())
        };
        records.extend(live.iter().map(|flow| flow.snapshot()));
        records.sort_by_key(|record| record.started);
        records
    }

    fn close(&self, live: &Live) {
        let mut record = live.snapshot();
        record.duration_ms = Some(u64::try_from(live.started.elapsed().as_millis()).unwrap_or(u64::MAX));
        let mut flows = self.shared.flows.lock();
        flows.live.remove(&live.key);
        if self.shared.recent_capacity == 0 {
            return;
        }
        if flows.recent.len() == self.shared.recent_capacity {
            flows.recent.pop_front();
        }
        flows.recent.push_back(record);
    }
}

/// A live flow; dropping it ends the flow.
#[derive(Debug)]
pub struct FlowHandle {
    live: Arc<Live>,
    table: FlowTable,
}

impl FlowHandle {
    /// Its id.
    pub fn id(&self) -> FlowId {
        self.live.record.lock().id
    }

    /// Counts bytes from the workload.
    pub fn add_sent(&self, bytes: u64) {
        self.live.sent.fetch_add(bytes, Relaxed);
    }

    /// Counts bytes to the workload.
    pub fn add_received(&self, bytes: u64) {
        self.live.received.fetch_add(bytes, Relaxed);
    }

    /// Bytes so far, from and to the workload.
    pub fn bytes(&self) -> (u64, u64) {
        (self.live.sent.load(Relaxed), self.live.received.load(Relaxed))
    }

    /// Changes the record: protocol, host, upstream, request count.
    pub fn update(&self, change: impl FnOnce(&mut FlowRecord)) {
        change(&mut self.live.record.lock());
    }

    /// Records how the flow, or one request of it, failed; the worst verdict wins, the latest among equals.
    pub fn fail(&self, refusal: &Refusal) {
        let verdict = Verdict::of(refusal.reason);
        let mut record = self.live.record.lock();
        if verdict >= record.verdict {
            record.verdict = verdict;
            record.reason = refusal.reason;
            record.detail = Some(match &refusal.object {
                Some(object) => format!("{object}: {}", refusal.detail).into(),
                None => refusal.detail.as_str().into(),
            });
        }
    }
}

impl Drop for FlowHandle {
    fn drop(&mut self) {
        self.table.close(&self.live);
    }
}

#[cfg(test)]
mod tests {
    use super::{FlowId, FlowTable, Side, Verdict};
    use crate::reason::{Reason, Refusal};

    fn table(capacity: usize) -> (FlowTable, super::SpiffeId, super::SocketAddr) {
        let workload = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
        (FlowTable::new(Side::Agent, capacity), workload, "203.0.113.7:80".parse().unwrap())
    }

    #[test]
    fn keeps_the_most_recent_ended_flows_and_every_live_one() {
        let (table, workload, destination) = table(2);
        let live = table.open(FlowId::random(), workload.clone(), destination);
        let ended: Vec<_> = (0..3)
            .map(|_| {
                let id = FlowId::random();
                drop(table.open(id, workload.clone(), destination));
                id
            })
            .collect();
        let ids: Vec<_> = table.records().iter().map(|record| record.id).collect();
        assert_eq!(ids.len(), 3);
        assert!(ids.contains(&live.id()));
        assert!(!ids.contains(&ended[0]), "the oldest ended flow makes room");
        let open: Vec<_> =
            table.records().into_iter().filter(|record| record.duration_ms.is_none()).collect();
        assert_eq!(open.len(), 1);
    }

    #[test]
    fn the_worst_request_names_the_flow() {
        let (table, workload, destination) = table(1);
        let flow = table.open(FlowId::random(), workload, destination);
        flow.add_sent(3);
        flow.fail(&Refusal::new(Reason::UpstreamConnect, "refused"));
        flow.fail(&Refusal::new(Reason::PolicyDenied, "denied"));
        drop(flow);
        let record = table.records().remove(0);
        assert_eq!(
            (record.verdict, record.reason, record.sent),
            (Verdict::Failed, Reason::UpstreamConnect, 3)
        );
    }
}
