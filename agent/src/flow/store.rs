//! Where a table keeps its flows: those that go on, and the last so many that ended.
//!
//! One lock for all. A flow takes it twice, for a few steps each; a question takes it once for every [`PAGE`] flows, so that flows
//! which begin and end meanwhile wait for one page at most. Nothing is made, freed or filtered under it.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    mem,
    sync::Arc,
};

use parking_lot::Mutex;

use super::{FlowRecord, live::Live};
use crate::reason::Reason;

/// Flows for which the lock is held once.
const PAGE: usize = 256;

#[derive(Debug)]
pub(super) struct Store {
    /// How many that ended are kept, of each kind; more than none.
    capacity: usize,
    flows: Mutex<Flows>,
}

#[derive(Debug, Default)]
struct Flows {
    live: BTreeMap<u64, Arc<Live>>,
    carried: Ended,
    /// Those that the kernel told of. Apart: none of them takes the place of one that went through the gateway.
    observed: Ended,
}

/// In the order in which they ended.
#[derive(Debug, Default)]
struct Ended {
    /// With the keys that they had.
    records: VecDeque<(u64, Arc<FlowRecord>)>,
    /// How many made room.
    gone: usize,
}

impl Ended {
    /// Adds one, and takes out the one that makes room.
    fn push(&mut self, key: u64, record: Arc<FlowRecord>, capacity: usize) -> Option<(u64, Arc<FlowRecord>)> {
        let oldest = if self.records.len() >= capacity { self.records.pop_front() } else { None };
        self.gone += usize::from(oldest.is_some());
        self.records.push_back((key, record));
        oldest
    }

    /// How many there ever were.
    fn count(&self) -> usize {
        self.gone + self.records.len()
    }
}

/// One of the two kinds.
type Kind = fn(&mut Flows) -> &mut Ended;

const KINDS: [Kind; 2] = [|flows| &mut flows.observed, |flows| &mut flows.carried];

/// All flows there are, each once.
#[derive(Debug, Default)]
pub(super) struct All {
    /// They went on when they were asked for; each may have ended since.
    pub(super) live: Vec<Arc<Live>>,
    pub(super) ended: Vec<Arc<FlowRecord>>,
}

impl Store {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, flows: Mutex::default() }
    }

    pub(super) fn begin(&self, live: &Arc<Live>) {
        let (key, live) = (live.key, Arc::clone(live));
        self.flows.lock().live.insert(key, live);
    }

    /// The flow of this key has ended, with a record or without.
    pub(super) fn end(&self, key: u64, record: Option<Arc<FlowRecord>>) {
        let mut flows = self.flows.lock();
        let live = flows.live.remove(&key);
        let oldest = record.and_then(|record| {
            let by_kernel = matches!(record.reason, Reason::Bypassed | Reason::KernelRefused);
            let ended = if by_kernel { &mut flows.observed } else { &mut flows.carried };
            ended.push(key, record, self.capacity)
        });
        drop(flows);
        // A record is a dozen allocations: nobody else has to wait until they are freed.
        drop((live, oldest));
    }

    /// How many ended flows are kept, and how many made room.
    pub(super) fn kept_and_gone(&self) -> (usize, usize) {
        let mut flows = self.flows.lock();
        let [observed, carried] = KINDS.map(|kind| {
            let ended = kind(&mut flows);
            (ended.records.len(), ended.gone)
        });
        (observed.0 + carried.0, observed.1 + carried.1)
    }

    /// All that there were at one moment, as far as they are still there; and perhaps some that began meanwhile.
    pub(super) fn all(&self) -> All {
        let mut all = All::default();
        let before = {
            let mut flows = self.flows.lock();
            KINDS.map(|kind| kind(&mut flows).count())
        };
        let mut from = 0;
        loop {
            let flows = self.flows.lock();
            let known = all.live.len();
            all.live.extend(flows.live.range(from..).take(PAGE).map(|(_, live)| Arc::clone(live)));
            drop(flows);
            if all.live.len() < known + PAGE {
                break;
            }
            from = all.live.last().map_or(0, |live| live.key + 1);
        }
        // What was live a moment ago is not to be there twice.
        let known: HashSet<u64> = all.live.iter().map(|live| live.key).collect();
        for (kind, before) in KINDS.into_iter().zip(before) {
            self.pages(kind, |position, key, record| {
                if position < before || !known.contains(&key) {
                    all.ended.push(record);
                }
            });
        }
        all
    }

    /// Hands out what has ended, with the places that they have among all that ever did.
    fn pages(&self, kind: Kind, mut take: impl FnMut(usize, u64, Arc<FlowRecord>)) {
        let (mut from, mut page) = (0, Vec::new());
        loop {
            let mut flows = self.flows.lock();
            let Ended { records, gone } = kind(&mut flows);
            // Those that made room meanwhile are passed over.
            from = from.max(*gone);
            let first = (from - *gone).min(records.len());
            page.extend(records.range(first..).take(PAGE).cloned());
            drop(flows);
            if page.is_empty() {
                return;
            }
            for (key, record) in mem::take(&mut page) {
                take(from, key, record);
                from += 1;
            }
        }
    }
}
