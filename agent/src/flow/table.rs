//! The flow table of one process: live flows and the most recent ended ones, bounded.
//!
//! A flow lives as a [`FlowHandle`]; dropping the handle ends it, so no path can forget to.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use jiff::Timestamp;

use super::{
    FlowHandle, FlowId, FlowQuery, FlowRecord, Legs, Side, Verdict, Waits,
    live::Live,
    store::{All, Store},
};
use crate::{mesh::SpiffeId, reason::Reason};

/// Live and recent flows. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FlowTable {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    side: Side,
    next_key: AtomicU64,
    /// Absent: no records are kept.
    store: Option<Store>,
}

/// A flow that a query may select.
enum Found {
    Live(Arc<Live>),
    Ended(Arc<FlowRecord>),
}

impl FlowTable {
    /// A table for one side that keeps `capacity` ended flows, and as many of those that only the kernel saw; with 0 it keeps no records at
    /// all, also not of flows that go on.
    pub fn new(side: Side, capacity: usize) -> Self {
        let store = (capacity > 0).then(|| Store::new(capacity));
        Self { shared: Arc::new(Shared { side, next_key: AtomicU64::new(0), store }) }
    }

    /// Whether it keeps records.
    pub fn keeps_records(&self) -> bool {
        self.shared.store.is_some()
    }

    /// How many ended flows are kept, and how many made room for later ones.
    pub fn kept_and_gone(&self) -> (usize, usize) {
        self.shared.store.as_ref().map_or((0, 0), Store::kept_and_gone)
    }

    /// A new flow.
    pub fn open(&self, id: FlowId, workload: SpiffeId, original_destination: SocketAddr) -> FlowHandle {
        let Some(store) = &self.shared.store else { return FlowHandle::counted(id) };
        let record = FlowRecord {
            id,
            side: self.shared.side,
            started: Timestamp::now(),
            duration_ms: None,
            elapsed_us: 0,
            first_byte_us: None,
            undetected_us: None,
            workload,
            pod: None,
            pod_uid: None,
            workload_name: None,
            process: None,
            original_destination,
            protocol: None,
            host: None,
            verdict: Verdict::Allowed,
            reason: Reason::Completed,
            detail: None,
            upstream_cluster: None,
            upstream_host: None,
            requests: 0,
            attempts: None,
            sent: 0,
            received: 0,
            decided_by: None,
            legs: Legs::default(),
            waits: Waits::default(),
        };
        let live = Arc::new(Live::begin(self.shared.next_key.fetch_add(1, Relaxed), record));
        store.begin(&live);
        FlowHandle::recorded(id, live, self.clone())
    }

    /// Live flows and recent ones, oldest first.
    pub fn records(&self) -> Vec<FlowRecord> {
        self.select(&FlowQuery::default()).into_iter().map(Arc::unwrap_or_clone).collect()
    }

    /// Those of them that a query asks for, oldest first, as far as this side can tell.
    pub fn select(&self, query: &FlowQuery) -> Vec<Arc<FlowRecord>> {
        let Some(store) = &self.shared.store else { return Vec::new() };
        let All { live, ended } = store.all();
        let matcher = query.matcher();
        // By its key is decided about each; what is left out is neither copied nor asked for the kernel's figures.
        let key = |record: &FlowRecord| matcher.may_select(record).then(|| query.sort.key(record));
        let ended = ended.into_iter().filter_map(|record| Some((key(&record)?, Found::Ended(record))));
        let live = live.into_iter().filter_map(|live| Some((live.look(key)?, Found::Live(live))));
        let mut found: Vec<_> = ended.chain(live).collect();
        query.cut(&mut found, |(key, _)| *key);
        let records = found.into_iter().map(|(_, found)| match found {
            Found::Live(live) => live.record(),
            Found::Ended(record) => record,
        });
        let mut records: Vec<_> = records.collect();
        records.sort_by_key(|record| record.started);
        records
    }

    pub(super) fn close(&self, live: &Live) {
        if let Some(store) = &self.shared.store {
            store.end(live.key, live.end());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reason::Refusal;

    fn table(capacity: usize) -> (FlowTable, SpiffeId, SocketAddr) {
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
        assert_eq!(table.kept_and_gone(), (2, 1));
        let open: Vec<_> =
            table.records().into_iter().filter(|record| record.duration_ms.is_none()).collect();
        assert_eq!(open.len(), 1);
    }

    #[test]
    fn the_worst_request_names_the_flow() {
        let (table, workload, destination) = table(1);
        let flow = table.open(FlowId::random(), workload.clone(), destination);
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

    #[test]
    fn without_records_bytes_are_counted_and_nothing_else_is_asked_for() {
        let (table, workload, destination) = table(0);
        let flow = table.open(FlowId::random(), workload.clone(), destination);
        flow.add_sent(3);
        flow.add_received(4);
        flow.update(|_| panic!("there is no record"));
        flow.captured(|| panic!("nobody reads a gauge"));
        flow.tunnelled(|| panic!("no leg is noted"));
        flow.served(|| panic!("no leg is noted"));
        flow.fail(&Refusal::new(Reason::PolicyDenied, "denied"));
        assert_eq!((flow.bytes(), flow.is_recorded(), table.keeps_records()), ((3, 4), false, false));
        assert_eq!(table.records().len(), 0);
        drop(flow);
        assert_eq!(table.records().len(), 0);
    }

    #[test]
    fn who_asked_keeps_what_was_told() {
        let (table, workload, destination) = table(9);
        let flow = table.open(FlowId::random(), workload.clone(), destination);
        flow.asked_for("one.test");
        let told = table.select(&FlowQuery::default()).remove(0);
        flow.asked_for("two.test");
        flow.add_sent(5);
        let later = table.select(&FlowQuery::default()).remove(0);
        drop(flow);
        assert_eq!((told.host.as_deref(), told.sent), (Some("one.test"), 0));
        assert_eq!((later.host.as_deref(), later.sent, later.duration_ms), (Some("two.test"), 5, None));
        assert!(table.records()[0].duration_ms.is_some());
    }

    #[test]
    fn questions_meet_every_flow_once_while_flows_come_and_go() {
        const STAY: usize = 1500;
        let (table, workload, destination) = table(2 * STAY);
        let open = || table.open(FlowId::random(), workload.clone(), destination);
        let stay: Vec<_> = (0..STAY).map(|_| open()).collect();
        (0..STAY).for_each(|_| drop(open()));
        let ids: std::collections::HashSet<_> = table.records().iter().map(|record| record.id).collect();
        assert_eq!(ids.len(), 2 * STAY, "more than a page of each");
        std::thread::scope(|scope| {
            // They end one by one, so every one is on the way from one half of the store to the other at some time.
            let ending = scope.spawn(|| {
                for flow in stay {
                    drop(flow);
                    drop(open());
                }
            });
            while !ending.is_finished() {
                let told: Vec<_> = table.records().iter().map(|record| record.id).collect();
                let distinct: std::collections::HashSet<_> = told.iter().copied().collect();
                assert_eq!(distinct.len(), told.len(), "none twice");
                let known = distinct.intersection(&ids).count();
                assert!(known >= STAY, "{known}: those that ended last are there in any case");
            }
        });
        assert_eq!(table.records().len(), 2 * STAY);
    }
}
