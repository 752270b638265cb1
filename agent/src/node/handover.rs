//! Who acts on the workloads while one agent takes over from another: at no time both.
//!
//! Enrolling, releasing and repairing take the right to act, each for a moment. An agent that is being taken over gives it up
//! (`freeze`), and gets it back when the successor fails, or never again. `app::take_over` talks to the other process.

use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard};

use super::agent::{Agent, Enrolled};

/// The right to change workloads; others may have it as well.
pub(super) type Acting = OwnedRwLockReadGuard<()>;

/// Nobody in this process changes workloads as long as this lives.
pub(super) type Frozen = OwnedRwLockWriteGuard<()>;

impl Agent {
    /// Waits for the right to change workloads. None: another agent has taken over, for good.
    pub async fn acting(&self) -> Option<Acting> {
        let acting = self.moved.run_until_cancelled(Arc::clone(&self.changes).read_owned()).await?;
        // The lock may have come free by the very hand-over.
        (!self.moved.is_cancelled()).then_some(acting)
    }

    /// Waits for what is being changed, and stops all changes.
    pub async fn freeze(&self) -> Frozen {
        Arc::clone(&self.changes).write_owned().await
    }

    /// Leaves the workloads to another agent, for good. What was accepted, and still is, goes on.
    pub fn hand_over(&self, frozen: Frozen) {
        // Before the lock goes: whoever waits for it learns that there is nothing to wait for.
        self.moved.cancel();
        drop(frozen);
    }

    /// Whether this agent gave up its workloads for good.
    pub fn has_given_up(&self) -> bool {
        self.moved.is_cancelled()
    }

    /// Puts every workload back on our listeners and programs, after a successor gave up. Returns how many stay refused.
    pub fn restore(&self) -> usize {
        self.all_enrolled().iter().filter(|enrolled| !self.restore_one(enrolled)).count()
    }

    fn restore_one(&self, enrolled: &Enrolled) -> bool {
        let workload = &enrolled.workload;
        let presences = enrolled.presences.lock();
        // Its end is the watcher's, or the next check's, to see.
        if presences.released || workload.is_gone() {
            return true;
        }
        let restored = workload.open_cgroup().map_err(|e| e.to_string()).and_then(|cgroup| {
            let policy = self.policy(workload, &presences);
            self.capture.attach(&cgroup.path_by_descriptor(), &policy).map_err(|e| e.to_string())
        });
        match restored {
            Ok(_) => true,
            Err(_) if workload.is_gone() => true,
            Err(why) => {
                tracing::error!(workload = %workload.identity, "not taken back, its connections are refused: {why}");
                false
            }
        }
    }

    /// The highest number that a workload has had.
    pub fn last_id(&self) -> u32 {
        self.workloads.lock().last_id
    }

    /// Numbers new workloads from the one after `id`: a late release must not meet another workload of the same number.
    pub fn number_after(&self, id: u32) {
        let mut workloads = self.workloads.lock();
        workloads.last_id = workloads.last_id.max(id);
    }
}
