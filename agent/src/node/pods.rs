//! Pods at work: the cgroups of those that are to be captured are enrolled when they appear, and released when they go or nobody asks
//! for it any more.
//!
//! `app::agent` runs it on a cluster. Works from states, not from events: whatever happened, the pods and their cgroups are compared
//! with what is enrolled. What is asked for a pod is `kubernetes::pods`' to say, how one is enrolled `node::foreign`'s.

mod cgroups;
mod pod;
mod strict;
mod tree;
mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{
    sync::watch,
    task,
    time::{self, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

pub use self::pod::{Condition, Pod, Pods, Said, Verdicts, Wish};
use self::{
    strict::Known,
    tree::{Found, Tree},
    verdict::{Standing, verdict},
};
use super::{
    agent::{Agent, Enrolled},
    cgroup::{Cgroup, Hierarchy, is_gone},
    guard::Guards,
    locks::Lock,
    workload::Origin,
};
use crate::{
    datapath::{self, Class},
    mesh::SpiffeId,
    source::directory::Loaded,
};

/// Everything is looked through this often without any event: one may be lost, an enrolment that failed is tried again, and what is
/// said of pods has to follow the self-checks.
const RESCAN: Duration = Duration::from_secs(2);

/// What following the pods takes.
pub struct Parts {
    /// Who enrols.
    pub agent: Arc<Agent>,
    /// The uid of Egret's own pod.
    pub own: String,
    /// Trust domain of the identities.
    pub trust_domain: String,
    /// The pods; none before they are known.
    pub pods: watch::Receiver<Option<Arc<Pods>>>,
    /// Whether pods start strictly.
    pub configuration: watch::Receiver<Loaded>,
    /// Where it is said how it stands with them.
    pub verdicts: watch::Sender<Arc<Verdicts>>,
    /// Where it is said what is to be guarded.
    pub guards: watch::Sender<Guards>,
}

/// Follows pods and cgroups until `stop`. What was enrolled stays so.
pub async fn run(parts: Parts, stop: CancellationToken) {
    let Parts { agent, own, trust_domain, mut pods, mut configuration, verdicts, guards } = parts;
    let mut rescan = time::interval(RESCAN);
    rescan.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut binder = Binder { agent, own, trust_domain, strict: true, tree: None, said: BTreeMap::new() };
    let mut guarded = Known::default();
    loop {
        binder.strict = configuration.borrow_and_update().snapshot.settings.strict_start;
        let known = pods.borrow_and_update().clone();
        // Another agent has taken over.
        let Some(acting) = binder.agent.acting().await else { return };
        // Reads directories, and attaches programs.
        let worked = task::spawn_blocking(move || {
            let outcome = binder.work(known.as_deref());
            drop(acting);
            (binder, outcome)
        });
        let Outcome { said, known } = match worked.await {
            Ok((back, outcome)) => {
                binder = back;
                outcome
            }
            Err(e) => {
                tracing::error!("pods are not followed any more, what is enrolled stays so: {e}");
                return;
            }
        };
        if let Some(said) = said {
            verdicts.send_if_modified(|before| {
                let changed = **before != said;
                *before = Arc::new(said);
                changed
            });
        }
        if let Some(known) = known.filter(|known| *known != guarded) {
            guarded.clone_from(&known);
            guards.send_replace(known.guards());
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = configuration.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            changed = pods.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = Tree::changed(binder.tree.as_ref()) => {}
            _ = rescan.tick() => {}
        }
    }
}

/// Lets Egret's own pod pass a guard that an earlier agent has left, before anything else: who is held cannot ask the API server who
/// is to be held.
pub fn admit_own(pin_directory: &Path, own: &str) -> anyhow::Result<()> {
    let root = Hierarchy::find()?.root().to_owned();
    let found = Tree::new(root, own.to_owned()).and_then(|mut tree| tree.scan());
    let cgroup = match found {
        Ok(found) => found.pods.get(own).map(std::fs::metadata).transpose(),
        Err(e) => Err(e),
    };
    match cgroup {
        Ok(Some(cgroup)) => Ok(datapath::admit(pin_directory, cgroup.ino())?),
        Ok(None) => Ok(()),
        // It is tried again, and said, when the pods are followed.
        Err(e) => {
            tracing::warn!("{e}");
            Ok(())
        }
    }
}

struct Binder {
    agent: Arc<Agent>,
    own: String,
    trust_domain: String,
    strict: bool,
    /// The directories that are watched.
    tree: Option<Tree>,
    /// What stands in the way, by cgroup: said once.
    said: BTreeMap<PathBuf, String>,
}

/// What a look at everything gave.
struct Outcome {
    /// How it stands with the pods, if that is known.
    said: Option<Verdicts>,
    /// For the guard; nothing where the cgroups are not found, and everything stays as it is.
    known: Option<Known>,
}

impl Binder {
    /// Brings what is enrolled in line with the pods and the cgroups that are there.
    fn work(&mut self, pods: Option<&Pods>) -> Outcome {
        let mut problems = BTreeMap::new();
        let found = self.look(&mut problems);
        for enrolled in self.agent.foreign() {
            if let Origin::Pod { uid, .. } = &enrolled.workload.origin {
                let pod = pods.and_then(|pods| pods.get(uid));
                if let Err(e) = self.settle(&enrolled, pod) {
                    problems.insert(enrolled.workload.cgroup.clone(), e);
                }
            }
        }
        let Some(found) = found else {
            // Nothing new can be captured.
            let why = problems.get(self.agent.hierarchy.root()).cloned();
            self.say(problems);
            let all =
                pods.map(|pods| pods.values().filter_map(|pod| said(pod, &Standing::Free(why.clone()))));
            return Outcome { said: all.map(Iterator::collect), known: None };
        };
        let verdicts = pods.map(|pods| self.enroll_all(pods, &found, &mut problems));
        let known = match self.know(pods, &found) {
            Ok(known) => Some(known),
            Err(e) => {
                self.agent.counters.checks_failed.increment();
                problems.insert(found.parent, format!("strict start stays as it was: {e}"));
                None
            }
        };
        self.say(problems);
        Outcome { said: verdicts, known }
    }

    fn enroll_all(&self, pods: &Pods, found: &Found, problems: &mut BTreeMap<PathBuf, String>) -> Verdicts {
        let mut verdicts = Verdicts::new();
        for pod in pods.values() {
            let standing = match found.pods.get(&pod.cgroup) {
                None => Standing::Missing,
                Some(cgroup) => {
                    match self.enroll(pod, cgroup) {
                        Ok(Some(enrolled)) => enrolled.describe(&pod.baggage),
                        Ok(None) => {}
                        Err(e) => drop(problems.insert(cgroup.clone(), e)),
                    }
                    self.standing(cgroup, problems.get(cgroup))
                }
            };
            verdicts.extend(said(pod, &standing));
        }
        verdicts
    }

    /// What is to be known for strict start.
    fn know(&self, pods: Option<&Pods>, found: &Found) -> io::Result<Known> {
        let capture = &self.agent.capture;
        let inode = |path: &Path| std::fs::metadata(path).map(|directory| directory.ino());
        let is_guarded =
            |parent| capture.guarded().map_err(io::Error::other).map(|all| all.contains(&parent));
        let classes = capture.classes().map_err(io::Error::other)?;
        let unknown = found.pods.iter().filter(|(uid, _)| pods.is_none_or(|pods| !pods.contains_key(*uid)));
        let left_alone: BTreeSet<_> = unknown
            .filter(|(_, cgroup)| {
                inode(cgroup).is_ok_and(|inode| classes.get(&inode) == Some(&Class::NotOurs))
            })
            .map(|(uid, _)| uid.clone())
            .collect();
        let is_enrolled = |uid: &str| {
            let cgroup = found.pods.get(uid).and_then(|cgroup| inode(cgroup).ok());
            cgroup.is_some_and(|inode| self.agent.by_inode(inode).is_some())
        };
        let known = Known::new(&self.own, pods, is_enrolled, left_alone);
        // Before the API has answered nobody is guarded who was not before: all that run would be refused.
        let guard = self.strict && (pods.is_some() || is_guarded(inode(&found.parent)?)?);
        Ok(Known { parent: guard.then(|| found.parent.clone()), all: pods.is_some(), ..known })
    }

    fn look(&mut self, problems: &mut BTreeMap<PathBuf, String>) -> Option<Found> {
        let root = self.agent.hierarchy.root();
        let found = match &mut self.tree {
            Some(tree) => tree.scan(),
            None => {
                Tree::new(root.to_owned(), self.own.clone()).and_then(|tree| self.tree.insert(tree).scan())
            }
        };
        match found {
            Ok(found) => {
                if let Some(e) = &found.unwatched {
                    let late = format!("pods are seen up to {RESCAN:?} late, not all can be watched: {e}");
                    problems.insert(found.parent.clone(), late);
                }
                Some(found)
            }
            Err(e) => {
                self.agent.counters.checks_failed.increment();
                problems.insert(root.to_owned(), e.to_string());
                None
            }
        }
    }

    /// A pod that is enrolled: whether it stays, and as what.
    fn settle(&self, enrolled: &Arc<Enrolled>, pod: Option<&Pod>) -> Result<(), String> {
        let workload = &enrolled.workload;
        if workload.is_gone() {
            self.agent.release(enrolled);
            return Ok(());
        }
        // One that nobody knows (any more) may still run.
        let Some(pod) = pod else { return Ok(()) };
        match pod.wish {
            Wish::Unclear => Ok(()),
            Wish::Nobody | Wish::OptedOut | Wish::Own => {
                self.agent.withdraw(enrolled).map_err(text)?;
                if self.strict {
                    // At once: a guard would refuse it until it is looked at.
                    let left_alone = self.agent.capture.classify(workload.cgroup_inode, Class::NotOurs);
                    left_alone.map_err(|e| e.to_string())?;
                }
                Ok(())
            }
            Wish::Enrolled => {
                let (identity, origin) = self.as_what(pod)?;
                if (&workload.identity, &workload.origin) == (&identity, &origin) {
                    return Ok(());
                }
                self.agent.rebind(enrolled, identity, origin, None).map_err(text)
            }
        }
    }

    /// Enrols a pod that is to be captured; answers how it is enrolled.
    fn enroll(&self, pod: &Pod, cgroup: &Path) -> Result<Option<Arc<Enrolled>>, String> {
        if pod.wish != Wish::Enrolled || pod.ended {
            return Ok(None);
        }
        let (identity, origin) = self.as_what(pod)?;
        let inode = match Cgroup::open(cgroup.to_owned()) {
            Ok(opened) => opened.inode(),
            Err(e) if is_gone(&e) => return Ok(None),
            Err(e) => return Err(e.to_string()),
        };
        let known = self.agent.by_inode(inode).filter(|enrolled| enrolled.workload.origin == origin);
        if known.is_some() {
            return Ok(known);
        }
        match self.agent.enroll_cgroup(&identity, cgroup, origin, None) {
            // Gone while it was enrolled.
            Err(_) if !cgroup.exists() => Ok(None),
            Err(e) => Err(text(e)),
            Ok(_) => Ok(self.agent.by_inode(inode)),
        }
    }

    fn as_what(&self, pod: &Pod) -> Result<(SpiffeId, Origin), String> {
        let identity = SpiffeId::new(&self.trust_domain, &pod.namespace, &pod.service_account)
            .map_err(|e| e.to_string())?;
        let Pod { namespace, name, cgroup, .. } = pod;
        let origin = Origin::Pod { namespace: namespace.clone(), name: name.clone(), uid: cgroup.clone() };
        Ok((identity, origin))
    }

    /// How it stands with a pod whose cgroup is there.
    fn standing(&self, cgroup: &Path, problem: Option<&String>) -> Standing {
        let inode = Cgroup::open(cgroup.to_owned()).map(|cgroup| cgroup.inode());
        let Some(enrolled) = inode.ok().and_then(|inode| self.agent.by_inode(inode)) else {
            return Standing::Free(problem.cloned());
        };
        let locks = enrolled.locks.lock().clone();
        if let (Lock::Open(why), _) | (_, Lock::Open(why)) = (&locks.capture, &locks.backstop) {
            return Standing::Broken(why.clone());
        }
        let presences = enrolled.presences.lock();
        if let Some(why) = presences.problem() {
            return Standing::Broken(why);
        }
        if !presences.are_served() {
            return Standing::Broken("its listener has died, and is being made anew".to_owned());
        }
        if enrolled.astray.load(Relaxed) {
            return Standing::Broken(
                "a connection of the self-check did not arrive at its listener".to_owned(),
            );
        }
        let open = match &locks.link {
            Lock::Open(why) => Some(format!("no lock on its link: {why}")),
            Lock::Holds | Lock::Closed => None,
        };
        let remarks: Vec<_> = problem.cloned().into_iter().chain(open).collect();
        Standing::Captured((!remarks.is_empty()).then(|| remarks.join("; ")))
    }

    /// Logs what is new.
    fn say(&mut self, problems: BTreeMap<PathBuf, String>) {
        for (cgroup, problem) in &problems {
            if self.said.get(cgroup) != Some(problem) {
                tracing::error!(cgroup = %cgroup.display(), "{problem}");
            }
        }
        *self.agent.pod_problems.lock() =
            problems.iter().map(|(cgroup, problem)| format!("{}: {problem}", cgroup.display())).collect();
        self.said = problems;
    }
}

fn said(pod: &Pod, standing: &Standing) -> Option<((String, String), (Pod, Said))> {
    Some(((pod.namespace.clone(), pod.name.clone()), (pod.clone(), verdict(pod, standing)?)))
}

fn text(error: super::agent::Error) -> String {
    format!("{:#}", anyhow::Error::new(error))
}
