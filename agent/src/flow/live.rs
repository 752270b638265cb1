//! A flow that goes on: what a [`FlowHandle`](super::FlowHandle) writes and a [`FlowTable`](super::FlowTable) reads.
//!
//! Byte counts and waits are relaxed atomics on the data path; everything else is written a few times per flow under the flow's own lock,
//! in place: the record is shared with whoever asked for it, and copied only where it changes while they still hold it. What the kernel
//! knows of its connections is read when somebody asks for the flow, and when it ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{FlowRecord, Legs, Wait, Waits};
use crate::net::gauge::Gauge;

/// Bytes of one flow so far.
#[derive(Debug, Default)]
pub(super) struct Moved {
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Live {
    /// Tells it apart in its table; of flows that began one after the other the later has the larger one.
    pub(super) key: u64,
    pub(super) moved: Moved,
    state: Mutex<State>,
    started: Instant,
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
    record: Arc<FlowRecord>,
    gauges: Gauges,
    /// From the start until the bytes of the server began to count as its answer, in microseconds: not with HTTP, where requests do.
    connected_us: Option<u64>,
    /// How long it took, as the kernel measured it.
    measured: Option<Duration>,
    /// It leaves no record.
    discarded: bool,
    /// The record says all there will be.
    ended: bool,
}

/// Where the kernel's figures of each leg are read.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    pub(super) workload: Option<Gauge>,
    pub(super) tunnel: Option<Gauge>,
    pub(super) upstream: Option<Gauge>,
}

impl Gauges {
    /// Reads them into the legs.
    fn read(&self, legs: &mut Legs) {
        let read = |gauge: &Option<Gauge>| gauge.as_ref().and_then(Gauge::read).map(Box::new);
        if let (Some(leg), Some(gauge)) = (&mut legs.workload, &self.workload) {
            leg.tcp = gauge.read().map(Box::new);
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
    /// A flow that begins now.
    pub(super) fn begin(key: u64, record: FlowRecord) -> Self {
        let state = State {
            record: Arc::new(record),
            gauges: Gauges::default(),
            connected_us: None,
            measured: None,
            discarded: false,
            ended: false,
        };
        Self {
            key,
            moved: Moved::default(),
            state: Mutex::new(state),
            started: Instant::now(),
            first_byte: AtomicU64::new(0),
            waits: Default::default(),
            ongoing: AtomicU64::new(0),
        }
    }

    /// Changes the record, and where its figures are read.
    pub(super) fn change(&self, change: impl FnOnce(&mut FlowRecord, &mut Gauges)) {
        let mut state = self.state.lock();
        let State { record, gauges, .. } = &mut *state;
        change(Arc::make_mut(record), gauges);
    }

    /// Looks at the record as it is now, but for the kernel's figures.
    pub(super) fn look<T>(&self, look: impl FnOnce(&FlowRecord) -> T) -> T {
        let mut state = self.state.lock();
        self.refresh(&mut state);
        look(&state.record)
    }

    /// The record as it is now.
    pub(super) fn record(&self) -> Arc<FlowRecord> {
        let mut state = self.state.lock();
        self.refresh(&mut state);
        state.read();
        Arc::clone(&state.record)
    }

    /// The record as it stays, if there is to be one.
    pub(super) fn end(&self) -> Option<Arc<FlowRecord>> {
        let mut state = self.state.lock();
        self.refresh(&mut state);
        state.read();
        state.ended = true;
        let record = Arc::make_mut(&mut state.record);
        record.duration_ms = Some(record.elapsed_us / 1000);
        (!state.discarded).then(|| Arc::clone(&state.record))
    }

    /// It took so long, by the kernel's measure.
    pub(super) fn measured(&self, duration: Duration) {
        self.state.lock().measured = Some(duration);
    }

    /// It is to leave no record.
    pub(super) fn discard(&self) {
        self.state.lock().discarded = true;
    }

    /// The first byte for the workload came.
    pub(super) fn answered(&self) {
        self.first_byte.store(self.since_start(Instant::now()).max(1000), Relaxed);
    }

    /// From now on the next byte for the workload is the first of the server's answer.
    pub(super) fn spliced(&self) {
        let connected = self.since_start(Instant::now()) / 1000;
        self.state.lock().connected_us = Some(connected);
    }

    /// Counts time in which nothing moved.
    pub(super) fn waited(&self, wait: Wait, time: Duration) {
        self.waits[wait as usize].fetch_add(nanoseconds(time), Relaxed);
    }

    /// From `since` on this is waited for.
    pub(super) fn waits(&self, wait: Wait, since: Instant) {
        let ongoing = self.since_start(since) << ONGOING_BITS | (wait as u64 + 1);
        self.ongoing.store(ongoing, Relaxed);
    }

    fn since_start(&self, now: Instant) -> u64 {
        nanoseconds(now.saturating_duration_since(self.started))
    }

    /// Writes into the record what is counted beside it.
    fn refresh(&self, state: &mut State) {
        if state.ended {
            return;
        }
        let now = self.since_start(Instant::now());
        let connected_us = state.connected_us;
        let elapsed = state.measured.map_or(now, nanoseconds);
        let record = Arc::make_mut(&mut state.record);
        record.elapsed_us = elapsed / 1000;
        record.sent = self.moved.sent.load(Relaxed);
        record.received = self.moved.received.load(Relaxed);
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
    }
}

impl State {
    /// Reads the kernel's figures.
    fn read(&mut self) {
        if !self.ended {
            self.gauges.read(&mut Arc::make_mut(&mut self.record).legs);
        }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
