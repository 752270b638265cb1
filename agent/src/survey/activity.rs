//! What flows do over time: rates, latencies and outcomes over a window, by host, workload or rule. The engine of `egret top`.
//!
//! `cli::top` hands it one answer of agents and gateways after the other, and it makes rates of the differences. Pure, and bounded: it
//! remembers so many flows, and says when there were more.

mod row;
mod snapshot;

use std::collections::{HashMap, VecDeque};

use jiff::{SignedDuration, Timestamp};

pub use self::{
    row::{Latency, Rank, Row},
    snapshot::{GroupBy, Snapshot},
};
use super::flows::PlacedFlow;
use crate::flow::{FlowId, FlowRecord, Verdict};

/// How much older than the time since the answer before a flow may be that was not in it: nobody is asked at exactly the same time.
const SLACK: SignedDuration = SignedDuration::from_secs(5);

/// The flows of the last moments, and what each of them did.
#[derive(Debug)]
pub struct Activity {
    window: SignedDuration,
    capacity: usize,
    /// When the answers came that the window is made of: what counts came after the first of them.
    answers: VecDeque<Timestamp>,
    flows: HashMap<FlowId, Seen>,
    left_out: usize,
}

/// A flow that is remembered.
#[derive(Debug)]
struct Seen {
    /// As it was last told of, without the records of its sides: the joined view is enough, and a third of the memory.
    flow: PlacedFlow,
    told: Timestamp,
    did: Did,
}

/// What a flow was seen to do, and when.
#[derive(Debug, Default)]
struct Did {
    moved: VecDeque<Moved>,
    began: Option<Timestamp>,
    answered: Option<Timestamp>,
    ended: Option<Timestamp>,
    refused: Option<Timestamp>,
}

/// What a flow did between two answers.
#[derive(Clone, Copy, Debug)]
struct Moved {
    at: Timestamp,
    requests: u64,
    sent: u64,
    received: u64,
}

/// Of a flow what is compared from answer to answer.
#[derive(Clone, Copy)]
struct State {
    requests: u64,
    sent: u64,
    received: u64,
    answered: bool,
    ended: bool,
    verdict: Verdict,
}

impl State {
    const NEW: Self =
        Self { requests: 0, sent: 0, received: 0, answered: false, ended: false, verdict: Verdict::Allowed };

    fn of(record: &FlowRecord) -> Self {
        Self {
            requests: record.requests,
            sent: record.sent,
            received: record.received,
            answered: record.first_byte_us.is_some(),
            ended: record.duration_ms.is_some(),
            verdict: record.verdict,
        }
    }
}

impl Activity {
    /// Of the last `window`, or of the time between two answers where that is longer, and of up to `capacity` flows.
    pub fn new(window: SignedDuration, capacity: usize) -> Self {
        Self { window, capacity, answers: VecDeque::new(), flows: HashMap::new(), left_out: 0 }
    }

    /// Takes an answer: every flow that is open, and every one that ended since the answer before. With the first one measuring begins:
    /// nobody knows when the flows in it moved what they moved.
    pub fn observe(&mut self, now: Timestamp, mut flows: Vec<PlacedFlow>) {
        let previous = self.answers.back().copied();
        self.left_out = flows.len().saturating_sub(self.capacity);
        if self.left_out > 0 {
            // The newest remain, as where a limit cuts at agents and gateways.
            flows.select_nth_unstable_by_key(self.left_out - 1, |flow| flow.joined.flow.started);
            flows.drain(..self.left_out);
        }
        for flow in flows {
            self.take(now, previous, flow);
        }
        self.answers.push_back(now);
        // As many answers as come nearest to the window: they come a little early or late.
        while self.answers.len() > 2
            && self.spans(now).is_some_and(|(whole, less)| whole + less >= self.window * 2)
        {
            self.answers.pop_front();
        }
        self.forget(now);
    }

    /// How long the answers last, and how long those but the first.
    fn spans(&self, now: Timestamp) -> Option<(SignedDuration, SignedDuration)> {
        Some((now.duration_since(*self.answers.front()?), now.duration_since(*self.answers.get(1)?)))
    }

    fn take(&mut self, now: Timestamp, previous: Option<Timestamp>, mut flow: PlacedFlow) {
        (flow.joined.agent, flow.joined.gateway) = (None, None);
        let record = &flow.joined.flow;
        let before = self.flows.remove(&record.id);
        let is = State::of(record);
        // Ages are compared, no times of day: the clocks of others may be wrong.
        let age = SignedDuration::from_micros(i64::try_from(record.elapsed_us).unwrap_or(i64::MAX));
        let is_young =
            previous.is_some_and(|previous| age <= now.duration_since(previous).saturating_add(SLACK));
        let was = match &before {
            Some(seen) => State::of(&seen.flow.joined.flow),
            None if previous.is_none() => is,
            None if is_young => State::NEW,
            // It was hidden, by a filter, a limit or an agent that said nothing: what it moved by then was not moved now.
            None => State { ended: false, verdict: Verdict::Allowed, ..is },
        };
        let event = |happened: bool| happened.then_some(now);
        let unseen = || Did { began: event(is_young), ..Did::default() };
        let mut did = before.map_or_else(unseen, |seen| seen.did);
        did.answered = event(is.answered && !was.answered).or(did.answered);
        did.ended = event(is.ended && !was.ended).or(did.ended);
        did.refused = event(is.verdict != was.verdict).or(did.refused);
        let moved = Moved {
            at: now,
            requests: is.requests.saturating_sub(was.requests),
            sent: is.sent.saturating_sub(was.sent),
            received: is.received.saturating_sub(was.received),
        };
        if moved.requests + moved.sent + moved.received > 0 {
            did.moved.push_back(moved);
        }
        self.flows.insert(record.id, Seen { flow, told: now, did });
    }

    /// Drops what the window has left behind; then, should there still be too many flows, those that were told of longest ago.
    fn forget(&mut self, now: Timestamp) {
        let Some(begin) = self.answers.front().copied() else { return };
        self.flows.retain(|_, seen| {
            while seen.did.moved.front().is_some_and(|moved| moved.at <= begin) {
                seen.did.moved.pop_front();
            }
            // What may come again must not be new again.
            seen.told == now || seen.told > begin
        });
        let many = self.flows.len().saturating_sub(self.capacity);
        if many > 0 {
            let mut order: Vec<_> = self.flows.iter().map(|(id, seen)| (seen.told, *id)).collect();
            order.select_nth_unstable(many - 1);
            for (_, id) in &order[..many] {
                self.flows.remove(id);
            }
            self.left_out = self.left_out.max(many);
        }
    }
}

#[cfg(test)]
mod tests;
