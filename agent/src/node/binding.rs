//! WorkloadBindings at work: the cgroups they select are enrolled when they appear, and released when they go or are selected no
//! longer.
//!
//! `app::agent` runs it. Works from states, not from events: whatever happened, the tree of cgroups is compared with what is
//! enrolled. Which cgroups a binding selects is `mesh`'s to say, how one is enrolled `node::foreign`'s.

mod scan;
mod strict;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    task,
    time::{self, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use self::scan::{Tree, Watched};
use super::{
    agent::{Agent, Enrolled},
    cgroup::{Cgroup, Hierarchy, is_gone},
    guard::Guards,
    workload::Origin,
};
use crate::{
    mesh::{CgroupSelector, Kind, ObjectRef, Snapshot, SpiffeId, WorkloadBinding},
    source::directory::Loaded,
};

/// The tree is looked through this often without any event: an event may be lost, and an enrolment that failed is tried again.
const RESCAN: Duration = Duration::from_secs(5);

/// Follows configuration and cgroups until `stop`. What was enrolled stays so. Says what is to be guarded after every look, so
/// that what was released is left alone at once.
pub async fn run(
    agent: Arc<Agent>,
    mut configuration: watch::Receiver<Loaded>,
    trust_domain: String,
    guards: watch::Sender<Guards>,
    stop: CancellationToken,
) {
    let mut rescan = time::interval(RESCAN);
    rescan.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut binder = Binder { agent, trust_domain, tree: None, said: BTreeMap::new() };
    loop {
        let snapshot = Arc::clone(&configuration.borrow_and_update().snapshot);
        // Another agent has taken over.
        let Some(acting) = binder.agent.acting().await else { return };
        // Reads directories, and attaches programs.
        let worked = task::spawn_blocking({
            let snapshot = Arc::clone(&snapshot);
            move || {
                binder.work(&snapshot);
                drop(acting);
                binder
            }
        });
        binder = match worked.await {
            Ok(binder) => binder,
            Err(e) => {
                tracing::error!("bindings are not followed any more, what they enrolled stays enrolled: {e}");
                return;
            }
        };
        guards.send_modify(|guards| strict::update(guards, binder.agent.hierarchy.root(), &snapshot));
        tokio::select! {
            () = stop.cancelled() => return,
            changed = configuration.changed() => {
                if changed.is_err() {
                    return;
                }
                // Other parts of the tree may matter now.
                binder.tree = None;
            }
            () = Tree::changed(binder.tree.as_ref()) => {}
            _ = rescan.tick() => {}
        }
    }
}

/// The cgroups that a selector selects now, for `egret enroll --unit`.
pub fn find(selector: CgroupSelector) -> io::Result<Vec<PathBuf>> {
    let hierarchy = Hierarchy::find()?;
    let asked = Arc::new(WorkloadBinding {
        object: ObjectRef::new(Kind::WorkloadBinding, "", ""),
        created: "".into(),
        service_account: "".into(),
        cgroups: vec![selector],
        strict_start: false,
        existing_connections: None,
    });
    let tree = Tree::new(hierarchy.root().to_owned(), hierarchy.all_instances())?;
    Ok(tree.scan(&[asked])?.selected.into_keys().collect())
}

struct Binder {
    agent: Arc<Agent>,
    trust_domain: String,
    /// The directories that are watched.
    tree: Option<Tree>,
    /// What stands in the way of an enrolment, by cgroup: said once.
    said: BTreeMap<PathBuf, String>,
}

impl Binder {
    /// Brings what is enrolled in line with the bindings and the cgroups that are there.
    fn work(&mut self, snapshot: &Snapshot) {
        let bindings = &snapshot.bindings;
        let mut problems = BTreeMap::new();
        let found = match self.look(bindings, &mut problems) {
            Ok(found) => found,
            Err(e) => {
                self.agent.counters.checks_failed.increment();
                tracing::error!("the tree of cgroups cannot be read, what is enrolled stays so: {e}");
                return;
            }
        };
        for enrolled in self.agent.foreign() {
            if let Origin::Binding(name) = &enrolled.workload.origin {
                let winner = found.get(&enrolled.workload.cgroup).and_then(|selected| selected.first());
                if let Err(e) = self.settle(&enrolled, name, winner.copied(), snapshot) {
                    problems.insert(enrolled.workload.cgroup.clone(), e);
                }
            }
        }
        for (cgroup, selected) in &found {
            let [first, others @ ..] = &selected[..] else { continue };
            let others: Vec<_> = others.iter().map(|binding| binding.name()).collect();
            if !others.is_empty() {
                let message =
                    format!("{} gets it; {} select it as well, in vain", first.name(), others.join(", "));
                problems.insert(cgroup.clone(), message);
            }
            if let Err(e) = self.enroll(cgroup, first) {
                problems.insert(cgroup.clone(), e);
            }
        }
        self.say(problems);
    }

    fn look<'b>(
        &mut self,
        bindings: &'b [Arc<WorkloadBinding>],
        problems: &mut BTreeMap<PathBuf, String>,
    ) -> io::Result<BTreeMap<PathBuf, Vec<&'b WorkloadBinding>>> {
        if bindings.is_empty() {
            self.tree = None;
            return Ok(BTreeMap::new());
        }
        let hierarchy = &self.agent.hierarchy;
        let tree = match self.tree.take() {
            Some(tree) => tree,
            None => Tree::new(hierarchy.root().to_owned(), hierarchy.all_instances())?,
        };
        let Watched { selected, unwatched } = self.tree.insert(tree).scan(bindings)?;
        if let Some(e) = unwatched {
            let late =
                format!("what appears below is enrolled up to {RESCAN:?} late, not all can be watched: {e}");
            problems.insert(hierarchy.root().to_owned(), late);
        }
        Ok(selected)
    }

    /// A workload that a binding enrolled: whether it stays, and as what.
    fn settle(
        &self,
        enrolled: &Arc<Enrolled>,
        name: &str,
        winner: Option<&WorkloadBinding>,
        snapshot: &Snapshot,
    ) -> Result<(), String> {
        let workload = &enrolled.workload;
        if workload.is_gone() {
            self.agent.release(enrolled);
            return Ok(());
        }
        if let Some(binding) = winner {
            let (identity, origin) = self.as_what(binding)?;
            if (&workload.identity, &workload.origin) == (&identity, &origin) {
                // Without a word of its own, what was said at the enrolment stays.
                return binding
                    .existing_connections
                    .map_or(Ok(()), |policy| self.agent.set_existing(enrolled, policy).map_err(text));
            }
            return self.agent.rebind(enrolled, identity, origin, binding.existing_connections).map_err(text);
        }
        let in_force = snapshot.bindings.iter().any(|binding| binding.name() == name);
        let refused = snapshot.refused_bindings.iter().any(|object| {
            name.split_once('/').is_some_and(|(ns, name)| (&*object.namespace, &*object.name) == (ns, name))
        });
        // What a broken document says is not known, so nothing is let out because of it.
        if !in_force && (refused || snapshot.may_hold_more_bindings) {
            return Err(format!("stays enrolled: WorkloadBinding {name} cannot be read"));
        }
        self.agent.withdraw(enrolled).map_err(text)
    }

    fn enroll(&self, cgroup: &Path, binding: &WorkloadBinding) -> Result<(), String> {
        let (identity, origin) = self.as_what(binding)?;
        let is_bound = |enrolled: &Arc<Enrolled>| enrolled.workload.origin == origin;
        let inode = match Cgroup::open(cgroup.to_owned()) {
            Ok(opened) => opened.inode(),
            Err(e) if is_gone(&e) => return Ok(()),
            Err(e) => return Err(e.to_string()),
        };
        if self.agent.by_inode(inode).as_ref().is_some_and(is_bound) {
            return Ok(());
        }
        match self.agent.enroll_cgroup(&identity, cgroup, origin, binding.existing_connections) {
            // Gone while it was enrolled.
            Err(_) if !cgroup.exists() => Ok(()),
            Err(e) => Err(text(e)),
            Ok(_) => Ok(()),
        }
    }

    fn as_what(&self, binding: &WorkloadBinding) -> Result<(SpiffeId, Origin), String> {
        let identity = SpiffeId::new(&self.trust_domain, &binding.object.namespace, &binding.service_account)
            .map_err(|e| e.to_string())?;
        Ok((identity, Origin::Binding(binding.name())))
    }

    /// Logs what is new, and leaves all of it for `status`.
    fn say(&mut self, problems: BTreeMap<PathBuf, String>) {
        for (cgroup, problem) in &problems {
            if self.said.get(cgroup) != Some(problem) {
                tracing::error!(cgroup = %cgroup.display(), "{problem}");
            }
        }
        *self.agent.binding_problems.lock() =
            problems.iter().map(|(cgroup, problem)| format!("{}: {problem}", cgroup.display())).collect();
        self.said = problems;
    }
}

fn text(error: super::agent::Error) -> String {
    format!("{:#}", anyhow::Error::new(error))
}
