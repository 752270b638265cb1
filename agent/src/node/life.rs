//! The life of an enrolled workload: its connections are accepted, its end is seen; `check` looks after it meanwhile.
//!
//! `node::agent` starts these tasks, one set per workload, and ends them by the workload's token.

use std::{sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time,
};
use tokio_util::sync::CancellationToken;

use super::{
    agent::{Agent, Enrolled},
    cgroup::{Cgroup, is_gone},
    connection,
};
/// How long a new workload may stay without a process before it is released again: its creator died.
const ENTER_DEADLINE: Duration = Duration::from_secs(30);

/// Keeps a workload captured until its last process has ended, or it is released otherwise.
pub(super) async fn run(agent: Arc<Agent>, enrolled: Arc<Enrolled>, cgroup: Cgroup) {
    // Both, not the first to end: a workload that cannot be watched any more stays enrolled, and is still checked. Its
    // release cancels the token.
    let life = async { tokio::join!(agent.keep_captured(&enrolled), agent.watch(&enrolled, &cgroup)) };
    enrolled.stop.run_until_cancelled(life).await;
}

impl Agent {
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
            let Some(_acting) = self.acting().await else { return };
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

/// The tasks that accept a workload's connections, and their end.
pub(super) struct Serving {
    tasks: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

impl Serving {
    /// Starts them.
    pub(super) fn start(agent: &Arc<Agent>, enrolled: &Arc<Enrolled>, listeners: Vec<TcpListener>) -> Self {
        let stop = enrolled.stop.child_token();
        let accept = |listener| {
            let accepting = accept(Arc::clone(agent), Arc::clone(enrolled), listener, stop.clone());
            agent.connections.spawn(accepting)
        };
        Self { tasks: listeners.into_iter().map(accept).collect(), stop }
    }

    /// Whether every listener is there and served.
    pub(super) fn is_alive(&self) -> bool {
        self.tasks.iter().all(|task| !task.is_finished())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Accepts until it is stopped: the workload has ended, another agent has taken over, or there are new listeners; then what has
/// come until then. A full descriptor table must not end the listener: it waits and goes on.
async fn accept(agent: Arc<Agent>, enrolled: Arc<Enrolled>, listener: TcpListener, stop: CancellationToken) {
    let serve = |stream, peer| {
        let served = connection::serve(Arc::clone(&agent), Arc::clone(&enrolled), stream, peer);
        agent.connections.spawn(served);
    };
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => serve(stream, peer),
            // Somebody has shut it down, from outside: the self-check sees that we end.
            Err(e) if e.raw_os_error() == Some(nix::libc::EINVAL) => {
                tracing::error!(workload = %enrolled.workload.identity, "a listener does not listen any more");
                return;
            }
            Err(e) => {
                tracing::warn!(workload = %enrolled.workload.identity, "accept: {e}");
                time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    // Closing the listener would reset what waits. It does not block, so this ends with the queue.
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((stream, peer)) = listener.accept() {
        if let Ok(stream) = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
            serve(stream, peer);
        }
    }
}
