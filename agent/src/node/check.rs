//! The self-check of an enrolled workload, every few seconds: its programs are attached, its policy is in force, its listeners
//! are alive, and a connection takes the whole way. What is not so is repaired, counted and logged. Started by `node::life`.

use std::{sync::Arc, time::Duration};

use tokio::time;

use super::{
    agent::{Agent, Enrolled},
    hop::{Hop, Outcome},
    workload::Workload,
};

/// How often it is checked that a workload is still captured.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// After so many failed hops in a row the workload gets new listeners: what it is that fails is not known, and this is all that
/// can be made anew.
const FAILURES_BEFORE_REPAIR: u32 = 2;

impl Agent {
    /// Checks again and again. Returns when another agent has taken over.
    pub(super) async fn keep_captured(self: &Arc<Self>, enrolled: &Arc<Enrolled>) {
        let mut interval = time::interval_at(time::Instant::now() + CHECK_INTERVAL, CHECK_INTERVAL);
        interval.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let mut failures = 0;
        loop {
            interval.tick().await;
            let Some(_acting) = self.acting().await else { return };
            // The end of the workload is the watcher's to see.
            if !enrolled.workload.cgroup.exists() {
                continue;
            }
            self.check_programs(enrolled);
            if enrolled.serving.lock().as_ref().is_some_and(|serving| !serving.is_alive()) {
                self.listen_again(enrolled, "a listener has died");
            }
            failures = if self.check_path(enrolled).await { 0 } else { failures + 1 };
            if failures >= FAILURES_BEFORE_REPAIR {
                failures = 0;
                self.listen_again(enrolled, "nothing arrives at its listeners");
            }
        }
    }

    /// Attaches what is missing, and writes the policy: an operator's `bpftool`, or another tool, may take programs away under
    /// a running workload.
    fn check_programs(&self, enrolled: &Enrolled) {
        let Workload { identity, cgroup, .. } = &enrolled.workload;
        match self.capture.attach(cgroup, &self.policy(enrolled)) {
            Ok(0) => {}
            Ok(missing) => {
                self.counters.programs_reattached.add(missing as u64);
                tracing::error!(
                    workload = %identity,
                    "{missing} of its programs had been detached by somebody and are attached again; \
                     connections it made meanwhile may have gone out directly"
                );
            }
            Err(_) if !cgroup.exists() => {}
            Err(e) => {
                self.counters.checks_failed.increment();
                tracing::error!(workload = %identity, "whether it is captured cannot be checked: {e}");
            }
        }
    }

    /// Sends one connection the whole way. True when it arrived, or could not be tried for a reason that is no fault.
    async fn check_path(&self, enrolled: &Enrolled) -> bool {
        let workload = &enrolled.workload;
        let Some(destination) = Hop::destination(&self.policy(enrolled)) else { return true };
        let skipped = match self.capture.is_bypassed(destination.ip()) {
            Ok(false) => match enrolled.hop.take(workload, destination).await {
                Outcome::Arrived => {
                    self.counters.hops.increment();
                    return true;
                }
                Outcome::Skipped(why) => why,
                Outcome::Failed(_) if !workload.cgroup.exists() => return true,
                Outcome::Failed(why) => {
                    self.counters.hops_failed.increment();
                    tracing::error!(workload = %workload.identity, "a connection of its own does not take the way to us: {why}");
                    return false;
                }
            },
            Ok(true) => "its destination is in a bypassed range".to_owned(),
            Err(e) => e.to_string(),
        };
        tracing::debug!(workload = %workload.identity, "no probe was sent: {skipped}");
        true
    }

    fn listen_again(self: &Arc<Self>, enrolled: &Arc<Enrolled>, why: &str) {
        let identity = &enrolled.workload.identity;
        match self.listen(enrolled) {
            Ok(()) => {
                self.counters.listeners_reopened.increment();
                tracing::error!(workload = %identity, "{why}: it has new listeners");
            }
            Err(e) => {
                self.counters.checks_failed.increment();
                tracing::error!(workload = %identity, "{why}, and new ones cannot be made: {:#}", anyhow::Error::new(e));
            }
        }
    }
}
