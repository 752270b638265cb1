//! What the agent counts, besides what the kernel programs count.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::reason::Reason;

/// Counts one thing.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// `count` more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// How many.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One counter for each reason.
#[derive(Debug, Default)]
pub struct ByReason([Counter; Reason::ALL.len()]);

impl ByReason {
    /// One more for this reason.
    pub fn increment(&self, reason: Reason) {
        // In declaration order, as `Reason::ALL`.
        self.0[reason as usize].increment();
    }

    /// Those that were counted.
    pub fn counted(&self) -> impl Iterator<Item = (Reason, u64)> {
        let all = Reason::ALL.iter().zip(&self.0).map(|(reason, counter)| (*reason, counter.get()));
        all.filter(|(_, count)| *count > 0)
    }

    /// All of them together.
    pub fn sum(&self) -> u64 {
        self.0.iter().map(Counter::get).sum()
    }
}

/// What the agent counts besides the kernel programs.
#[derive(Debug, Default)]
pub struct Counters {
    /// Captured connections served.
    pub accepted: Counter,
    /// Captured connections refused before the gateway.
    pub refused: ByReason,
    /// Connections on a listener that no captured connect() belongs to.
    pub original_destination_miss: Counter,
    /// Programs that somebody detached from a workload, attached again.
    pub programs_reattached: Counter,
    /// Workloads that got new listeners, because theirs had died or nothing arrived there.
    pub listeners_reopened: Counter,
    /// Probes of the self-check that took the workload's way to us.
    pub hops: Counter,
    /// Probes that did not.
    pub hops_failed: Counter,
    /// Checks of a workload that failed: whether it is captured is not known.
    pub checks_failed: Counter,
    /// Connections of workloads that were open to the outside though neither captured nor permitted.
    pub escaped: Counter,
    /// Connections that were ended because they are older than the enrolment of their workload.
    pub older_ended: Counter,
    /// Sockets of workloads' processes that were made elsewhere.
    pub foreign_sockets: Counter,
    /// Looks at the sockets of a workload that failed, and connections that could not be ended.
    pub socket_checks_failed: Counter,
    /// Attempts to enter a network namespace of a workload, to read its links, or to bind DNS listeners anew, that failed:
    /// it is refused there.
    pub namespaces_not_entered: Counter,
    /// Workloads whose listener got fewer ports than it should have.
    pub listener_ports_reduced: Counter,
    /// Conditions of pods that could not be written.
    pub conditions_not_written: Counter,
    /// Events of the kernel programs about workloads that are not known (any more).
    pub events_of_unknown: Counter,
    /// DNS queries answered with what ServiceEntries say.
    pub dns_answered: Counter,
    /// DNS queries sent on to the resolver that was asked.
    pub dns_forwarded: Counter,
    /// DNS queries that could neither be answered nor forwarded: no resolver there, too many at once, no address left.
    pub dns_failed: Counter,
}

impl Counters {
    /// All of them, by their names in `status`.
    pub fn by_name(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("agent_accepted", self.accepted.get()),
            ("agent_refused", self.refused.sum()),
            ("original_destination_miss", self.original_destination_miss.get()),
            ("programs_reattached", self.programs_reattached.get()),
            ("listeners_reopened", self.listeners_reopened.get()),
            ("hops", self.hops.get()),
            ("hops_failed", self.hops_failed.get()),
            ("checks_failed", self.checks_failed.get()),
            ("escaped", self.escaped.get()),
            ("older_ended", self.older_ended.get()),
            ("foreign_sockets", self.foreign_sockets.get()),
            ("socket_checks_failed", self.socket_checks_failed.get()),
            ("namespaces_not_entered", self.namespaces_not_entered.get()),
            ("listener_ports_reduced", self.listener_ports_reduced.get()),
            ("conditions_not_written", self.conditions_not_written.get()),
            ("events_of_unknown", self.events_of_unknown.get()),
            ("dns_answered", self.dns_answered.get()),
            ("dns_forwarded", self.dns_forwarded.get()),
            ("dns_failed", self.dns_failed.get()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::ByReason;
    use crate::reason::Reason;

    #[test]
    fn every_reason_has_its_own_counter() {
        let counters = ByReason::default();
        for (times, reason) in (1..).zip(Reason::ALL) {
            for _ in 0..times {
                counters.increment(reason);
            }
        }
        let expected: Vec<_> = Reason::ALL.into_iter().zip(1..).collect();
        assert_eq!(counters.counted().collect::<Vec<_>>(), expected);
        assert_eq!(counters.sum(), expected.iter().map(|(_, count)| count).sum::<u64>());
    }
}
