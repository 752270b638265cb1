//! The life of an enrolled workload: its connections are accepted, its programs are checked, its end is seen.
//!
//! `node::agent` starts these tasks, one set per workload, and ends them by the workload's token.

use std::{sync::Arc, time::Duration};

use tokio::{net::TcpListener, time};

use super::{
    agent::{Agent, Enrolled},
    cgroup::{Cgroup, is_gone},
    connection,
    sockets::watch,
    workload::Workload,
};

/// How long a new workload may stay without a process before it is released again: its creator died.
const ENTER_DEADLINE: Duration = Duration::from_secs(30);

/// How often it is checked that a workload is still captured.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// Keeps a workload captured until its last process has ended, or it is released otherwise.
pub(super) async fn run(agent: Arc<Agent>, enrolled: Arc<Enrolled>, cgroup: Cgroup) {
    // Both, not the first to end: a workload that cannot be watched any more stays enrolled, and is still checked. Its
    // release cancels the token.
    let life = async {
        tokio::join!(
            agent.keep_captured(&enrolled),
            agent.watch(&enrolled, &cgroup),
            watch::run(Arc::clone(&agent), Arc::clone(&enrolled)),
        )
    };
    enrolled.stop.run_until_cancelled(life).await;
}

impl Agent {
    /// Checks again and again that the workload's programs are attached and its policy is in force, and repairs what is
    /// not: an operator's `bpftool`, or another tool, may take them away under a running workload. Never returns.
    async fn keep_captured(&self, enrolled: &Enrolled) {
        let mut interval = time::interval_at(time::Instant::now() + CHECK_INTERVAL, CHECK_INTERVAL);
        interval.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let Workload { identity, cgroup, .. } = &enrolled.workload;
            let attached = self.capture.attach(cgroup, &enrolled.policy.lock());
            match attached {
                Ok(0) => {}
                Ok(missing) => {
                    enrolled.reattached.notify_one();
                    self.counters.programs_reattached.add(missing as u64);
                    tracing::error!(
                        workload = %identity,
                        "{missing} of its programs had been detached by somebody and are attached again; \
                         connections it made meanwhile may have gone out directly, and are looked for"
                    );
                }
                // The end of the workload is the watcher's to see.
                Err(_) if !cgroup.exists() => {}
                Err(e) => {
                    self.counters.checks_failed.increment();
                    tracing::error!(workload = %identity, "whether it is captured cannot be checked: {e}");
                }
            }
        }
    }

    /// Releases the workload when its last process has ended.
    async fn watch(&self, enrolled: &Enrolled, cgroup: &Cgroup) {
        if time::timeout(ENTER_DEADLINE, cgroup.wait_populated(true)).await.is_err() {
            tracing::warn!(workload = %enrolled.workload.identity, "no process entered in time");
        }
        loop {
            match cgroup.wait_populated(false).await {
                // The directory is gone, which is an end as well; anything else must not pass for one.
                Err(e) if !is_gone(&e) => {
                    tracing::error!(workload = %enrolled.workload.identity, "its cgroup cannot be watched: {e}");
                    return;
                }
                _ => {}
            }
            // A process that entered just now keeps it.
            if self.release(enrolled) || !cgroup.populated().unwrap_or(false) {
                return;
            }
        }
    }

    /// Releases a workload. `false`: something runs in it, and it stays as it is.
    pub(super) fn release(&self, enrolled: &Enrolled) -> bool {
        // First of all, because the kernel refuses it while a process is inside: none is ever there uncaptured.
        if let Err(e) = enrolled.workload.remove_cgroup() {
            tracing::warn!(workload = %enrolled.workload.identity, "stays enrolled: {e}");
            return false;
        }
        enrolled.stop.cancel();
        let last_of_identity = {
            let mut workloads = self.workloads.lock();
            if workloads.enrolled.remove(&enrolled.workload.id).is_none() {
                return true;
            }
            !workloads.enrolled.values().any(|other| other.workload.identity == enrolled.workload.identity)
        };
        if last_of_identity {
            self.certificates.forget(&enrolled.workload.identity);
        }
        self.undo(&enrolled.workload);
        tracing::info!(workload = %enrolled.workload.identity, "released");
        true
    }
}

/// Accepts until the workload ends. A full descriptor table must not end the listener: it waits and goes on.
pub(super) async fn accept(agent: Arc<Agent>, enrolled: Arc<Enrolled>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            () = enrolled.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let served = connection::serve(Arc::clone(&agent), Arc::clone(&enrolled), stream, peer);
                agent.connections.spawn(served);
            }
            Err(e) => {
                tracing::warn!(workload = %enrolled.workload.identity, "accept: {e}");
                time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}
