//! The self-check of an enrolled workload, every few seconds: its namespaces are entered, its links are locked, its programs are
//! attached, its policy is in force, its listeners are alive, and a connection takes the whole way. What is not so is repaired,
//! counted and logged. Started by `node::life`.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    task,
    time::{self, Instant},
};

use super::{
    agent::{Agent, Enrolled},
    cgroup::{Cgroup, is_gone},
    hop::{Hop, Outcome},
    locks::Lock,
    presence::{Examined, Presence, Presences},
};
use crate::{datapath::WorkloadPolicy, memory};

/// How often it is checked that a workload is still captured.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// How soon it is looked for the namespaces of a foreign workload, after it was enrolled or its processes came or went: a
/// container enters its namespace some time after its cgroup was made, and nothing tells. A look that finds them where they were costs little.
const FIRST_LOOK: Duration = Duration::from_millis(1);

/// Later looks come after this part of the time since then, up to [`CHECK_INTERVAL`]: who took a while to enter its namespace
/// waits little longer.
const PART: u32 = 8;

/// After so many failed hops in a row the workload gets new listeners: what it is that fails is not known, and this is all that
/// can be made anew.
const FAILURES_BEFORE_REPAIR: u32 = 2;

impl Agent {
    /// Checks again and again. Returns when another agent has taken over.
    pub(super) async fn keep_captured(self: &Arc<Self>, enrolled: &Arc<Enrolled>) {
        let (mut changed, mut attached) = (Instant::now(), Instant::now());
        let mut failures = 0;
        loop {
            let pause = if enrolled.workload.origin.is_foreign() {
                (changed.elapsed() / PART).clamp(FIRST_LOOK, CHECK_INTERVAL)
            } else {
                CHECK_INTERVAL
            };
            let told = time::timeout(pause, enrolled.changed.notified()).await.is_ok();
            if told {
                changed = Instant::now();
            }
            let Some(acting) = self.acting().await else { return };
            let programs = attached.elapsed() >= CHECK_INTERVAL;
            // Files of /proc, namespaces and bpf(2). A check that panicked is made again.
            let checked = task::spawn_blocking({
                let (agent, enrolled) = (Arc::clone(self), Arc::clone(enrolled));
                move || {
                    if programs || told || enrolled.presences.lock().has_moved(&enrolled.workload) {
                        agent.check(&enrolled, programs);
                        memory::give_back_here();
                    }
                    acting
                }
            });
            let acting = match checked.await {
                Ok(acting) => acting,
                Err(e) => {
                    tracing::error!("a check of a workload failed: {e}");
                    continue;
                }
            };
            if !programs {
                continue;
            }
            attached = Instant::now();
            failures = if self.check_path(enrolled).await { 0 } else { failures + 1 };
            enrolled.astray.store(failures > 0, Relaxed);
            if failures >= FAILURES_BEFORE_REPAIR {
                failures = 0;
                let (agent, enrolled) = (Arc::clone(self), Arc::clone(enrolled));
                let repaired = task::spawn_blocking(move || {
                    let mut presences = enrolled.presences.lock();
                    agent.listen_again(&enrolled, &mut presences, "nothing arrives at its listeners");
                    drop(acting);
                });
                if let Err(e) = repaired.await {
                    tracing::error!("a repair of a workload failed: {e}");
                }
            }
        }
    }

    /// Brings a workload up to date: where its processes are, and, if `programs`, that its programs are attached and its policy
    /// is in force. Repairs what is not: an operator's `bpftool`, or another tool, may take them away under a running workload.
    fn check(self: &Arc<Self>, enrolled: &Arc<Enrolled>, programs: bool) {
        let mut presences = enrolled.presences.lock();
        if presences.released {
            return;
        }
        let workload = &enrolled.workload;
        let cgroup = match workload.open_cgroup() {
            Ok(cgroup) => cgroup,
            Err(e) if is_gone(&e) => {
                drop(presences);
                // Of our own making: for the watcher to see.
                if workload.origin.is_foreign() {
                    self.release(enrolled);
                }
                return;
            }
            Err(e) => {
                self.counters.checks_failed.increment();
                tracing::error!(workload = %workload.identity, "its cgroup cannot be opened: {e}");
                return;
            }
        };
        let before = self.policy(workload, &presences);
        let examined = match presences.examine(workload, &enrolled.stop, &self.dns) {
            Ok(examined) => examined,
            Err(_) if workload.is_gone() => return,
            Err(e) => {
                self.counters.checks_failed.increment();
                tracing::error!(workload = %workload.identity, "where its processes are cannot be found: {e}");
                Examined::default()
            }
        };
        self.check_link(enrolled, &presences, false);
        let policy = self.policy(workload, &presences);
        if programs {
            self.attach_again(enrolled, &cgroup, &policy);
        } else if policy != before
            && let Err(e) = self.capture.set_policy(&cgroup.path_by_descriptor(), &policy)
        {
            self.counters.checks_failed.increment();
            tracing::error!(workload = %workload.identity, "its policy stays as it was: {e}");
        }
        self.serve(enrolled, examined);
        if programs && !presences.are_served() {
            self.listen_again(enrolled, &mut presences, "a listener has died");
        }
    }

    fn attach_again(&self, enrolled: &Enrolled, cgroup: &Cgroup, policy: &WorkloadPolicy) {
        let identity = &enrolled.workload.identity;
        let mut state = Lock::Holds;
        // Not by its name: a service that is started again has another cgroup with the same one.
        match self.capture.attach(&cgroup.path_by_descriptor(), policy) {
            Ok(0) => {}
            Ok(missing) => {
                enrolled.look.notify_one();
                self.counters.programs_reattached.add(missing as u64);
                tracing::error!(
                    workload = %identity,
                    "{missing} of its programs had been detached by somebody and are attached again; \
                     connections it made meanwhile may have gone out directly, and are looked for"
                );
            }
            Err(_) if enrolled.workload.is_gone() => {}
            Err(e) => {
                self.counters.checks_failed.increment();
                tracing::error!(workload = %identity, "whether it is captured cannot be checked: {e}");
                state = Lock::Open(format!("cannot be checked: {e}"));
            }
        }
        let mut locks = enrolled.locks.lock();
        (locks.capture, locks.backstop) = (state.clone(), state);
    }

    /// Sends one connection the whole way in every namespace where the workload may be. True when they arrived, or could not be
    /// tried for a reason that is no fault.
    async fn check_path(&self, enrolled: &Enrolled) -> bool {
        let workload = &enrolled.workload;
        let (policy, inhabited) = {
            let presences = enrolled.presences.lock();
            if presences.released {
                return true;
            }
            let inhabited: Vec<_> = presences.inhabited().cloned().collect();
            (self.policy(workload, &presences), inhabited)
        };
        let Some(destination) = Hop::destination(&policy) else { return true };
        let skipped = match self.capture.is_bypassed(destination.ip()) {
            Ok(false) => None,
            Ok(true) => Some("its destination is in a bypassed range".to_owned()),
            Err(e) => Some(e.to_string()),
        };
        if let Some(why) = skipped {
            tracing::debug!(workload = %workload.identity, "no probe was sent: {why}");
            return true;
        }
        let mut arrived = true;
        for presence in inhabited {
            arrived &= self.check_hop(enrolled, &presence, destination).await;
        }
        arrived
    }

    async fn check_hop(&self, enrolled: &Enrolled, presence: &Presence, destination: SocketAddr) -> bool {
        let workload = &enrolled.workload;
        match presence.hop.take(&workload.cgroup, presence.namespace.as_ref(), destination).await {
            Outcome::Arrived => self.counters.hops.increment(),
            Outcome::Skipped(why) => {
                tracing::debug!(workload = %workload.identity, "no probe was sent: {why}");
            }
            // It ended, or left, meanwhile.
            Outcome::Failed(_) if workload.is_gone() || presence.stop.is_cancelled() => {}
            Outcome::Failed(why) => {
                self.counters.hops_failed.increment();
                tracing::error!(workload = %workload.identity, "a connection of its own does not take the way to us: {why}");
                return false;
            }
        }
        true
    }

    /// Gives a workload new listeners, and sends its connections there; those it had before serve what has come to them.
    fn listen_again(self: &Arc<Self>, enrolled: &Arc<Enrolled>, presences: &mut Presences, why: &str) {
        let workload = &enrolled.workload;
        if presences.released {
            return;
        }
        let reopened =
            presences.reopen(&enrolled.stop).map_err(|e| e.to_string()).and_then(|(examined, old)| {
                self.serve(enrolled, examined);
                // Should it fail, the next check writes it.
                let sent = self.write_policy(workload, presences);
                for presence in old {
                    presence.stop.cancel();
                }
                sent.map_err(|e| format!("{:#}", anyhow::Error::new(e)))
            });
        match reopened {
            Ok(()) => {
                self.counters.listeners_reopened.increment();
                tracing::error!(workload = %workload.identity, "{why}: it has new listeners");
            }
            Err(e) => {
                self.counters.checks_failed.increment();
                tracing::error!(workload = %workload.identity, "{why}, and new ones cannot be made: {e}");
            }
        }
    }
}
