//! The flow table of one process: live flows and the most recent ended ones, bounded.
//!
//! A flow lives as a [`FlowHandle`]; dropping the handle ends it, so no path can forget to. Byte counts and waits are relaxed
//! atomics on the data path; everything else is written a few times per flow under the flow's own lock. What the kernel knows of its
//! connections is read when somebody asks for the flow, and when it ends.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    FlowId, FlowQuery, FlowRecord, Legs, Side, TunnelLeg, UpstreamLeg, Verdict, Wait, Waits, WorkloadLeg,
};
use crate::{
    mesh::SpiffeId,
    net::gauge::Gauge,
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
    recent: VecDeque<Arc<FlowRecord>>,
    /// Those that the kernel told of. Apart: none of them takes the place of one that went through the gateway.
    observed: VecDeque<Arc<FlowRecord>>,
    next_key: u64,
}

#[derive(Debug)]
struct Live {
    key: u64,
    state: Mutex<State>,
    started: Instant,
    sent: AtomicU64,
    received: AtomicU64,
    /// Nanoseconds from the start to the first byte for the workload; 0: none yet.
    first_byte: AtomicU64,
    /// Nanoseconds, in the order of [`Wait::ALL`].
    waits: [AtomicU64; Wait::ALL.len()],
    /// What is waited for now: nanoseconds from the start to its beginning, and in the last three bits one more than its index; 0: nothing.
    ongoing: AtomicU64,
}

const ONGOING_BITS: u32 = 3;

#[derive(Debug)]
struct State {
    record: FlowRecord,
    gauges: Gauges,
    /// From the start until the bytes of the server began to count as its answer, in microseconds: not with HTTP, where requests do.
    connected_us: Option<u64>,
    /// How long it took, as the kernel measured it.
    measured: Option<Duration>,
    /// It leaves no record.
    discarded: bool,
}

/// Where the kernel's figures of each leg are read.
#[derive(Debug, Default)]
struct Gauges {
    workload: Option<Gauge>,
    tunnel: Option<Gauge>,
    upstream: Option<Gauge>,
}

impl Gauges {
    /// Reads them into the legs.
    fn read(&self, legs: &mut Legs) {
        let read = |gauge: &Option<Gauge>| gauge.as_ref().and_then(Gauge::read);
        if let (Some(leg), Some(gauge)) = (&mut legs.workload, &self.workload) {
            leg.tcp = gauge.read();
        }
        if let Some(leg) = &mut legs.tunnel {
            leg.tcp = read(&self.tunnel);
        }
        if let Some(leg) = &mut legs.upstream {
            leg.tcp = read(&self.upstream);
        }
    }
}

impl Live {
    fn since_start(&self, now: Instant) -> u64 {
        nanoseconds(now.saturating_duration_since(self.started))
    }

    /// The record as it is now, without the kernel's figures.
    fn snapshot(&self) -> FlowRecord {
        let now = self.since_start(Instant::now());
        let state = self.state.lock();
        let mut record = state.record.clone();
        let (connected_us, measured) = (state.connected_us, state.measured);
        drop(state);
        record.elapsed_us = measured.map_or(now, nanoseconds) / 1000;
        record.sent = self.sent.load(Relaxed);
        record.received = self.received.load(Relaxed);
        record.first_byte_us = Some(self.first_byte.load(Relaxed) / 1000).filter(|us| *us > 0);
        if let (Some(connected), Some(first), Some(leg)) =
            (connected_us, record.first_byte_us, &mut record.legs.upstream)
        {
            leg.first_byte_us = Some(first.saturating_sub(connected));
        }
        let mut sums = self.waits.each_ref().map(|sum| sum.load(Relaxed));
        let ongoing = self.ongoing.load(Relaxed);
        let wait = (ongoing & ((1 << ONGOING_BITS) - 1)) as usize;
        if let Some(sum) = wait.checked_sub(1).and_then(|wait| sums.get_mut(wait)) {
            *sum += now.saturating_sub(ongoing >> ONGOING_BITS);
        }
        record.waits = Waits::of_nanoseconds(sums);
        record
    }

    /// The same with the kernel's figures.
    fn snapshot_with_figures(&self) -> FlowRecord {
        let mut record = self.snapshot();
        self.state.lock().gauges.read(&mut record.legs);
        record
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A flow that a query may select.
enum Found {
    Live(Arc<Live>, Box<FlowRecord>),
    Ended(Arc<FlowRecord>),
}

impl Found {
    fn record(&self) -> &FlowRecord {
        match self {
            Self::Live(_, record) => record,
            Self::Ended(record) => record,
        }
    }
}

impl FlowTable {
    /// A table for one side that keeps `recent_capacity` ended flows, and as many of those that only the kernel saw.
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
            elapsed_us: 0,
            first_byte_us: None,
            undetected_us: None,
            workload,
            pod: None,
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
        let mut flows = self.shared.flows.lock();
        let key = flows.next_key;
        flows.next_key += 1;
        let live = Arc::new(Live {
            key,
            state: Mutex::new(State {
                record,
                gauges: Gauges::default(),
                connected_us: None,
                measured: None,
                discarded: false,
            }),
            started: Instant::now(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            first_byte: AtomicU64::new(0),
            waits: Default::default(),
            ongoing: AtomicU64::new(0),
        });
        flows.live.insert(key, Arc::clone(&live));
        FlowHandle { live, table: self.clone() }
    }

    /// Live flows and recent ones, oldest first.
    pub fn records(&self) -> Vec<FlowRecord> {
        self.select(&FlowQuery::default()).into_iter().map(Arc::unwrap_or_clone).collect()
    }

    /// Those of them that a query asks for, oldest first, as far as this side can tell.
    pub fn select(&self, query: &FlowQuery) -> Vec<Arc<FlowRecord>> {
        let (live, recent): (Vec<_>, Vec<_>) = {
            let flows = self.shared.flows.lock();
            let ended = flows.observed.iter().chain(&flows.recent).cloned().collect();
            (flows.live.values().cloned().collect(), ended)
        };
        let ended = recent.into_iter().map(Found::Ended);
        let live = live.into_iter().map(|live| {
            let record = live.snapshot();
            Found::Live(live, Box::new(record))
        });
        let mut found: Vec<_> = ended.chain(live).filter(|found| query.may_select(found.record())).collect();
        query.cut(&mut found, Found::record);
        found.sort_by_key(|found| found.record().started);
        let records = found.into_iter().map(|found| match found {
            Found::Live(live, _) => Arc::new(live.snapshot_with_figures()),
            Found::Ended(record) => record,
        });
        records.collect()
    }

    fn close(&self, live: &Live) {
        let mut record = live.snapshot_with_figures();
        record.duration_ms = Some(record.elapsed_us / 1000);
        let record = Arc::new(record);
        let mut flows = self.shared.flows.lock();
        flows.live.remove(&live.key);
        if self.shared.recent_capacity == 0 || live.state.lock().discarded {
            return;
        }
        let by_kernel = matches!(record.reason, Reason::Bypassed | Reason::KernelRefused);
        let ended = if by_kernel { &mut flows.observed } else { &mut flows.recent };
        if ended.len() == self.shared.recent_capacity {
            ended.pop_front();
        }
        ended.push_back(record);
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
        self.live.state.lock().record.id
    }

    /// Counts bytes from the workload.
    pub fn add_sent(&self, bytes: u64) {
        self.live.sent.fetch_add(bytes, Relaxed);
    }

    /// Counts bytes to the workload.
    pub fn add_received(&self, bytes: u64) {
        if self.live.received.fetch_add(bytes, Relaxed) == 0 && bytes > 0 {
            self.live.first_byte.store(self.live.since_start(Instant::now()).max(1000), Relaxed);
        }
    }

    /// Bytes so far, from and to the workload.
    pub fn bytes(&self) -> (u64, u64) {
        (self.live.sent.load(Relaxed), self.live.received.load(Relaxed))
    }

    /// Counts time in which nothing moved.
    pub fn waited(&self, wait: Wait, time: Duration) {
        self.live.waits[wait as usize].fetch_add(nanoseconds(time), Relaxed);
    }

    /// From `since` on this is waited for, until something else is said.
    pub fn waits(&self, wait: Wait, since: Instant) {
        let ongoing = self.live.since_start(since) << ONGOING_BITS | (wait as u64 + 1);
        self.live.ongoing.store(ongoing, Relaxed);
    }

    /// Changes the record: protocol, host, upstream, request count.
    pub fn update(&self, change: impl FnOnce(&mut FlowRecord)) {
        change(&mut self.live.state.lock().record);
    }

    /// Says where the kernel's figures of the workload's connection are.
    pub fn captured(&self, gauge: Gauge) {
        let mut state = self.live.state.lock();
        state.record.legs.workload = Some(Box::new(WorkloadLeg::default()));
        state.gauges.workload = Some(gauge);
    }

    /// Says which tunnel carries it.
    pub fn tunnelled(&self, leg: TunnelLeg, gauge: Gauge) {
        let mut state = self.live.state.lock();
        state.record.legs.tunnel = Some(Box::new(leg));
        state.gauges.tunnel = Some(gauge);
    }

    /// Says which upstream connection serves it, or the request of it that is under way.
    pub fn served(&self, leg: UpstreamLeg, gauge: Gauge) {
        let mut state = self.live.state.lock();
        state.record.upstream_host = Some(leg.connection.endpoint);
        state.record.legs.upstream = Some(Box::new(leg));
        state.gauges.upstream = Some(gauge);
    }

    /// Ends the flow with what the kernel measured of it.
    pub fn measured(self, sent: u64, received: u64, duration: Duration) {
        self.live.sent.store(sent, Relaxed);
        self.live.received.store(received, Relaxed);
        self.live.state.lock().measured = Some(duration);
    }

    /// Ends it without a record.
    pub fn discard(self) {
        self.live.state.lock().discarded = true;
    }

    /// From now on the next byte for the workload is the first of the server's answer.
    pub fn spliced(&self) {
        let connected = self.live.since_start(Instant::now()) / 1000;
        self.live.state.lock().connected_us = Some(connected);
    }

    /// Records how the flow, or one request of it, failed; the worst verdict wins, the latest among equals.
    pub fn fail(&self, refusal: &Refusal) {
        let verdict = Verdict::of(refusal.reason);
        let record = &mut self.live.state.lock().record;
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
