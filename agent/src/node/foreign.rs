//! Workloads whose cgroup somebody else made: a service, a container, any directory. They are enrolled and released here, and
//! never created, ended or removed.
//!
//! Called by the admin socket (`egret enroll`, `egret release`), `node::binding` and `node::pods`.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    agent::{Agent, Enrolled, Error},
    cgroup::Cgroup,
    processes,
    workload::{Origin, Workload},
};
use crate::mesh::{ExistingConnections, SpiffeId};

/// How long a listener is kept after its workload was released: what the kernel captured just before is still to be accepted.
const HAND_OVER: Duration = Duration::from_millis(100);

/// The processes of an instance, by their pid files. The agent would carry its own tunnels, the gateway its own connections.
const ROLES: [&str; 4] = ["supervisor", "ca", "gateway", "agent"];

impl Agent {
    /// Enrols a cgroup that is there, and everything in it from now on. Connections that its processes have are treated as `existing`
    /// says, or as the mesh does.
    pub fn enroll_cgroup(
        self: &Arc<Self>,
        identity: &SpiffeId,
        cgroup: &Path,
        origin: Origin,
        existing: Option<ExistingConnections>,
    ) -> Result<Workload, Error> {
        let _one_at_a_time = self.enrolling.lock();
        let fail = |why: String| Error::Cgroup { cgroup: cgroup.to_owned(), why };
        let path = fs::canonicalize(self.hierarchy.root().join(cgroup)).map_err(|e| fail(e.to_string()))?;
        let found = self.examine_foreign(&path).map_err(fail)?;
        self.admit(Workload {
            id: self.next_id(),
            identity: identity.clone(),
            cgroup_inode: found.inode(),
            cgroup: path,
            namespace: None,
            origin,
            existing: self.existing(existing),
        })
    }

    /// Whether a cgroup may be enrolled.
    fn examine_foreign(&self, path: &Path) -> Result<Cgroup, String> {
        let root = self.hierarchy.root();
        if !path.starts_with(root) {
            return Err(format!("it is not below {}, where cgroup v2 is mounted", root.display()));
        }
        if path == root {
            return Err(
                "it is the root, which has every process of the machine in it, Egret's too".to_owned()
            );
        }
        if path.starts_with(self.hierarchy.all_instances()) {
            return Err("Egret made it: egret exec enrols what it runs".to_owned());
        }
        let cgroup = Cgroup::open(path.to_owned()).map_err(|e| e.to_string())?;
        if let Some(other) = self.by_inode(cgroup.inode()) {
            let Workload { id, identity, origin, .. } = &other.workload;
            return Err(format!(
                "it is enrolled already, as workload {id} ({}/{}, {origin})",
                identity.namespace(),
                identity.service_account()
            ));
        }
        let inside = processes::of_cgroup(path).map_err(|e| e.to_string())?;
        let ours = self.own_processes();
        if let Some(own) = inside.iter().find(|process| ours.contains(process)) {
            return Err(format!(
                "process {own} of Egret itself is in it, and would be captured: run Egret in a cgroup of its own"
            ));
        }
        Ok(cgroup)
    }

    fn own_processes(&self) -> Vec<u32> {
        let of_role = |role| fs::read_to_string(self.run_dir.pid_file(role)).ok()?.trim().parse::<u32>().ok();
        ROLES.into_iter().filter_map(of_role).chain([std::process::id()]).collect()
    }

    /// The workload with this cgroup.
    pub(super) fn by_inode(&self, inode: u64) -> Option<Arc<Enrolled>> {
        let workloads = self.workloads.lock();
        workloads.enrolled.values().find(|enrolled| enrolled.workload.cgroup_inode == inode).cloned()
    }

    /// Releases a workload for an operator: one enrolled by hand as it is, one of our own making when nothing runs in it.
    pub fn release_by_hand(&self, id: u32) -> Result<(), Error> {
        let fail = |why: &str| Error::Release { id, why: why.to_owned() };
        let enrolled = self.workloads.lock().enrolled.get(&id).cloned();
        let enrolled = enrolled.ok_or_else(|| fail("there is none with this number"))?;
        match &enrolled.workload.origin {
            Origin::Hand => self.withdraw(&enrolled),
            Origin::Binding(name) => Err(fail(&format!(
                "WorkloadBinding {name} selects it, and would enrol it again: change that"
            ))),
            Origin::Pod { namespace, name, .. } => Err(fail(&format!(
                "the label egret.dev/egress of pod {namespace}/{name} or of its namespace asks for it, and it would be enrolled \
                 again: change that"
            ))),
            Origin::Exec if enrolled.workload.open_cgroup().and_then(|c| c.populated()).unwrap_or(false) => {
                Err(fail("egret exec runs it: end its processes"))
            }
            Origin::Exec if self.release(&enrolled) => Ok(()),
            Origin::Exec => Err(fail("a process has just entered it")),
        }
    }

    /// Releases a foreign workload that goes on: what it dials from now on is direct. Connections that were captured go on as
    /// they are.
    pub(super) fn withdraw(&self, enrolled: &Arc<Enrolled>) -> Result<(), Error> {
        let workload = &enrolled.workload;
        {
            let mut presences = enrolled.presences.lock();
            if presences.released {
                return Ok(());
            }
            self.capture
                .detach(workload.cgroup_inode)
                .map_err(|source| Error::Capture { identity: workload.identity.clone(), source })?;
            presences.released = true;
        }
        self.forget(enrolled);
        self.undo(workload);
        hand_over(enrolled);
        tracing::warn!(
            workload = %workload.identity,
            cgroup = %workload.cgroup.display(),
            "released: what it dials from now on is direct"
        );
        Ok(())
    }

    /// Gives an enrolled workload another identity. Its programs stay attached, so that there is no moment in which it is not
    /// captured; connections that it has go on under the old identity.
    pub(super) fn rebind(
        self: &Arc<Self>,
        enrolled: &Arc<Enrolled>,
        identity: SpiffeId,
        origin: Origin,
        existing: Option<ExistingConnections>,
    ) -> Result<(), Error> {
        {
            // No check of the old one may write its ports over the new ones.
            let mut presences = enrolled.presences.lock();
            if presences.released {
                return Ok(());
            }
            let before = enrolled.current();
            let existing = existing.map_or(before.existing, |policy| before.existing.under(policy));
            let workload = Workload { identity, origin, existing, ..before.clone() };
            let fail = |source| Error::Workload { identity: workload.identity.clone(), source };
            workload.save(&self.run_dir).map_err(fail)?;
            if let Err(e) = self.start(workload.clone()) {
                before.save(&self.run_dir).map_err(fail)?;
                return Err(e);
            }
            presences.released = true;
            tracing::info!(before = %before.identity, workload = %workload.identity, origin = %workload.origin, "bound again");
        }
        self.forget_identity(&enrolled.workload.identity);
        hand_over(enrolled);
        Ok(())
    }

    /// Treats the existing connections of a workload otherwise from now on.
    pub(super) fn set_existing(&self, enrolled: &Enrolled, policy: ExistingConnections) -> Result<(), Error> {
        let presences = enrolled.presences.lock();
        let before = enrolled.current();
        let workload = Workload { existing: before.existing.under(policy), ..before.clone() };
        if presences.released || workload == before {
            return Ok(());
        }
        workload
            .save(&self.run_dir)
            .map_err(|source| Error::Workload { identity: workload.identity.clone(), source })?;
        *enrolled.existing.lock() = workload.existing;
        drop(presences);
        enrolled.look.notify_one();
        Ok(())
    }

    /// The foreign workloads.
    pub(super) fn foreign(&self) -> Vec<Arc<Enrolled>> {
        let workloads = self.workloads.lock();
        workloads
            .enrolled
            .values()
            .filter(|enrolled| enrolled.workload.origin.is_foreign())
            .cloned()
            .collect()
    }
}

/// Ends the listeners of a workload, a little later.
fn hand_over(enrolled: &Enrolled) {
    let stop = enrolled.stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(HAND_OVER).await;
        stop.cancel();
    });
}

/// The cgroup of a process, for `egret enroll --pid`.
pub fn cgroup_of(process: u32) -> std::io::Result<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{process}/cgroup"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("0::/"))
        .map(PathBuf::from)
        .ok_or_else(|| std::io::Error::other(format!("process {process} is in no cgroup of version 2")))
}
