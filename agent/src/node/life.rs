//! The life of an enrolled workload: its connections are accepted, its programs are checked, its namespaces are found, its end is
//! seen.
//!
//! `node::agent` starts these tasks, one set per workload, and ends them by the workload's token.

use std::{sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    task,
    time::{self, Instant},
};

use super::{
    agent::{Agent, Enrolled},
    cgroup::{Cgroup, is_gone},
    connection,
    locks::Lock,
    presence::{Presence, Presences},
    sockets::watch,
};
use crate::mesh::SpiffeId;

/// How long a new workload may stay without a process before it is released again: its creator died.
const ENTER_DEADLINE: Duration = Duration::from_secs(30);

/// How often it is checked that a workload is still captured.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// How soon it is looked for the namespaces of a foreign workload, after it was enrolled or its processes came or went: a
/// container enters its namespace some time after its cgroup was made, and nothing tells.
const FIRST_LOOK: Duration = Duration::from_millis(1);

/// Later looks come after this part of the time since then, up to [`CHECK_INTERVAL`]: who took a while to enter its namespace
/// waits little longer.
const PART: u32 = 8;

/// Keeps a workload captured until its last process has ended, or it is released otherwise.
pub(super) async fn run(agent: Arc<Agent>, enrolled: Arc<Enrolled>, cgroup: Cgroup) {
    // Both, not the first to end: a workload that cannot be watched any more stays enrolled, and is still checked. Its
    // release cancels the token.
    let life = async {
        tokio::join!(
            keep_captured(&agent, &enrolled),
            agent.watch(&enrolled, &cgroup),
            watch::run(Arc::clone(&agent), Arc::clone(&enrolled)),
        )
    };
    enrolled.stop.run_until_cancelled(life).await;
}

/// Checks again and again. Never returns.
async fn keep_captured(agent: &Arc<Agent>, enrolled: &Arc<Enrolled>) {
    let (mut changed, mut attached) = (Instant::now(), Instant::now());
    loop {
        let pause = if enrolled.workload.origin.is_foreign() {
            (changed.elapsed() / PART).clamp(FIRST_LOOK, CHECK_INTERVAL)
        } else {
            CHECK_INTERVAL
        };
        if time::timeout(pause, enrolled.changed.notified()).await.is_ok() {
            changed = Instant::now();
        }
        let programs = attached.elapsed() >= CHECK_INTERVAL;
        if programs {
            attached = Instant::now();
        }
        let (agent, enrolled) = (Arc::clone(agent), Arc::clone(enrolled));
        // Files of /proc, namespaces and bpf(2). A check that panicked is made again.
        let checked = task::spawn_blocking(move || agent.check(&enrolled, programs)).await;
        if let Err(e) = checked {
            tracing::error!("a check of a workload failed: {e}");
        }
    }
}

impl Agent {
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
        let before = presences.policy(workload);
        let arrivals = match presences.examine(workload, &enrolled.stop) {
            Ok((arrivals, failures)) => {
                self.counters.namespaces_not_entered.add(failures);
                arrivals
            }
            Err(_) if workload.is_gone() => return,
            Err(e) => {
                self.counters.checks_failed.increment();
                tracing::error!(workload = %workload.identity, "where its processes are cannot be found: {e}");
                Vec::new()
            }
        };
        self.check_link(enrolled, &presences, false);
        if programs {
            self.attach_again(enrolled, &cgroup, &presences);
        } else if presences.policy(workload) != before
            && let Err(e) = self.capture.set_policy(&cgroup.path_by_descriptor(), &presences.policy(workload))
        {
            self.counters.checks_failed.increment();
            tracing::error!(workload = %workload.identity, "its policy stays as it was: {e}");
        }
        self.serve(enrolled, arrivals);
    }

    fn attach_again(&self, enrolled: &Enrolled, cgroup: &Cgroup, presences: &Presences) {
        let identity = &enrolled.workload.identity;
        let mut state = Lock::Holds;
        // Not by its name: a service that is started again has another cgroup with the same one.
        match self.capture.attach(&cgroup.path_by_descriptor(), &presences.policy(&enrolled.workload)) {
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

    /// Sees processes come and go.
    async fn watch(&self, enrolled: &Arc<Enrolled>, cgroup: &Cgroup) {
        let watched = if enrolled.workload.origin.is_foreign() {
            watch_foreign(enrolled, cgroup).await
        } else {
            self.watch_own(enrolled, cgroup).await
        };
        if let Err(e) = watched {
            tracing::error!(workload = %enrolled.workload.identity, "its cgroup cannot be watched: {e}");
        }
    }

    /// Releases a workload of our own making when its last process has ended.
    async fn watch_own(&self, enrolled: &Arc<Enrolled>, cgroup: &Cgroup) -> std::io::Result<()> {
        if time::timeout(ENTER_DEADLINE, cgroup.wait_populated(true)).await.is_err() {
            tracing::warn!(workload = %enrolled.workload.identity, "no process entered in time");
        }
        loop {
            match cgroup.wait_populated(false).await {
                // The directory is gone, which is an end as well; anything else must not pass for one.
                Err(e) if !is_gone(&e) => return Err(e),
                _ => {}
            }
            // A process that entered just now keeps it.
            if self.release(enrolled) || !cgroup.populated().unwrap_or(false) {
                return Ok(());
            }
        }
    }

    /// Releases a workload of our own making, or a foreign one whose cgroup is gone. `false`: something runs in it, and it stays
    /// as it is.
    pub(super) fn release(&self, enrolled: &Arc<Enrolled>) -> bool {
        {
            let mut presences = enrolled.presences.lock();
            if presences.released {
                return true;
            }
            // First of all, because the kernel refuses it while a process is inside: none is ever there uncaptured.
            if let Err(e) = enrolled.workload.remove_cgroup() {
                tracing::warn!(workload = %enrolled.workload.identity, "stays enrolled: {e}");
                return false;
            }
            presences.released = true;
            presences.end();
        }
        enrolled.stop.cancel();
        self.forget(enrolled);
        self.undo(&enrolled.workload);
        tracing::info!(workload = %enrolled.workload.identity, "released");
        true
    }

    /// Strikes a workload off the list, and its identity when it was the last to have it.
    pub(super) fn forget(&self, enrolled: &Enrolled) {
        self.workloads.lock().enrolled.remove(&enrolled.workload.id);
        self.forget_identity(&enrolled.workload.identity);
    }

    /// Lets go of the certificate of an identity that no workload has any more.
    pub(super) fn forget_identity(&self, identity: &SpiffeId) {
        let held = self.workloads.lock().enrolled.values().any(|other| other.workload.identity == *identity);
        if !held {
            self.certificates.forget(identity);
        }
    }
}

/// A foreign workload stays when it is empty; only where its processes are has to be found again. That its cgroup is gone is
/// for the next check to see.
async fn watch_foreign(enrolled: &Enrolled, cgroup: &Cgroup) -> std::io::Result<()> {
    let mut populated = cgroup.populated().unwrap_or(false);
    loop {
        populated = !populated;
        let changed = cgroup.wait_populated(populated).await;
        enrolled.changed.notify_one();
        match changed {
            Ok(()) => {}
            Err(e) if is_gone(&e) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

/// Accepts at one of its listener's ports until the workload ends or has left the namespace. A full descriptor table must not end
/// the listener: it waits and goes on.
pub(super) async fn accept(
    agent: Arc<Agent>,
    enrolled: Arc<Enrolled>,
    presence: Arc<Presence>,
    listener: TcpListener,
    port: u16,
) {
    loop {
        let accepted = tokio::select! {
            () = presence.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let gone = presence.gone.clone();
                let served = connection::serve(
                    Arc::clone(&agent),
                    Arc::clone(&enrolled),
                    Arc::clone(&presence),
                    stream,
                    peer,
                    port,
                );
                agent.connections.spawn(async move { gone.run_until_cancelled(served).await });
            }
            Err(e) => {
                tracing::warn!(workload = %enrolled.workload.identity, "accept: {e}");
                time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
