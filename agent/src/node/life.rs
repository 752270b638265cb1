//! The life of an enrolled workload: its connections are accepted, its end is seen; `check` looks after it meanwhile.
//!
//! `node::agent` starts these tasks, one set per workload, and ends them by the workload's token.

use std::{sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time,
};

use super::{
    agent::{Agent, Enrolled},
    cgroup::{Cgroup, is_gone},
    connection,
    presence::Presence,
    sockets::watch,
};
use crate::mesh::SpiffeId;

/// How long a new workload may stay without a process before it is released again: its creator died.
const ENTER_DEADLINE: Duration = Duration::from_secs(30);

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
            // Another agent has taken over.
            let Some(_acting) = self.acting().await else { return Ok(()) };
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

/// Accepts at one of its listener's ports until it is stopped: the workload has ended or left the namespace, another agent has
/// taken over, or there are new listeners; then what has come until then. A full descriptor table must not end the listener: it waits
/// and goes on.
pub(super) async fn accept(
    agent: Arc<Agent>,
    enrolled: Arc<Enrolled>,
    presence: Arc<Presence>,
    listener: std::net::TcpListener,
    port: u16,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        // The self-check sees that we end.
        Err(e) => {
            tracing::error!(workload = %enrolled.workload.identity, "a listener cannot be served: {e}");
            return;
        }
    };
    let serve = |stream, peer| {
        let gone = presence.gone.clone();
        let (agent, enrolled, presence) = (Arc::clone(&agent), Arc::clone(&enrolled), Arc::clone(&presence));
        let connections = agent.connections.clone();
        // Boxed: a task that waits for two things holds what it waits for twice.
        let served = Box::pin(connection::serve(agent, enrolled, presence, stream, peer, port));
        connections.spawn(async move { gone.run_until_cancelled(served).await });
    };
    loop {
        let accepted = tokio::select! {
            () = presence.stop.cancelled() => break,
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
