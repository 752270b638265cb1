//! Strict start, the node's side: sees every cgroup that is made below a guarded parent, and says at once which ones are left
//! alone. What is to be captured is not named here: the guard refuses it until `Capture::attach` has attached its programs.
//!
//! `app::agent` runs it, `node::binding` says what is wanted. What the guard refuses is in
//! `agent/ARCHITECTURE.md`, "Strict start".

mod warden;

use std::{
    collections::BTreeMap,
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::sys::inotify::{InitFlags, Inotify};
use parking_lot::Mutex;
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::watch,
    time,
};

use self::warden::Warden;
use super::{agent::Agent, counters::Counters};
use crate::datapath::{Capture, Depths};

/// How often it is looked whether the guards are still attached, and whether anything was missed.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// What a cgroup below a guarded parent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is left alone.
    NotOurs,
    /// It will be enrolled, or nobody knows yet: refused until then, and asked about again.
    Held,
    /// It only holds cgroups that are one or the other.
    Between,
}

/// How it stands with each parent that is to be guarded: what is in the way, if anything. For people.
pub type Standing = Mutex<BTreeMap<PathBuf, Option<String>>>;

/// What is to be guarded.
#[derive(Clone)]
pub struct Guards {
    /// The parents, absolute, each with the depths at which the cgroups below it are told apart.
    pub parents: BTreeMap<PathBuf, Depths>,
    /// These are all. Otherwise it is not known whether more are wanted, and those that are there stay.
    pub all: bool,
    /// Says of a cgroup below one of them, by its absolute path, what it is.
    pub judge: Arc<dyn Fn(&Path) -> Answer + Send + Sync>,
}

impl Guards {
    /// What is wanted by either: whose parent a cgroup is below, that one is asked about it. It is held if one of two says so.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        let mut parents = self.parents.clone();
        for (parent, depths) in &other.parents {
            let known = parents.entry(parent.clone()).or_insert(*depths);
            if *depths == Depths::TWO {
                *known = *depths;
            }
        }
        let sides = [self.clone(), other.clone()];
        let judge = move |cgroup: &Path| {
            let concerned =
                sides.iter().filter(|side| side.parents.keys().any(|parent| cgroup.starts_with(parent)));
            let answers: Vec<_> = concerned.map(|side| (side.judge)(cgroup)).collect();
            let strictest =
                [Answer::Held, Answer::Between].into_iter().find(|answer| answers.contains(answer));
            strictest.unwrap_or(Answer::NotOurs)
        };
        Self { parents, all: self.all && other.all, judge: Arc::new(judge) }
    }

    /// When nobody has said anything yet: the guards of an earlier agent stay.
    pub fn unknown() -> Self {
        Self { parents: BTreeMap::new(), all: false, judge: Arc::new(|_| Answer::Held) }
    }
}

/// What is wanted by either of two, whenever one changes.
pub fn both(mut one: watch::Receiver<Guards>, mut other: watch::Receiver<Guards>) -> watch::Receiver<Guards> {
    let (sender, receiver) = watch::channel(Guards::unknown());
    tokio::spawn(async move {
        loop {
            let guards = one.borrow_and_update().with(&other.borrow_and_update());
            sender.send_replace(guards);
            let changed = tokio::select! {
                changed = one.changed() => changed,
                changed = other.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    });
    receiver
}

impl Agent {
    /// Guards what is wanted, until the sender is gone.
    pub async fn guard(self: Arc<Self>, wanted: watch::Receiver<Guards>) {
        let guarding = run(&self.capture, &self.counters, &self.guards, wanted);
        // Another agent that has taken over guards as well.
        if let Some(Err(e)) = self.moved.run_until_cancelled(guarding).await {
            self.counters.checks_failed.increment();
            tracing::error!("strict start ends, what is guarded lets nothing new out: {e}");
        }
    }
}

/// The same, without an agent. The guards stay at the end: an agent that is away lets nobody start.
pub async fn run(
    capture: &Capture,
    counters: &Counters,
    standing: &Standing,
    mut wanted: watch::Receiver<Guards>,
) -> io::Result<()> {
    let events = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    // A second descriptor of the same queue, to wait at.
    // SAFETY: the AsyncFd owns it.
    let readiness =
        unsafe { AsyncFd::register_with_interest(events.as_fd().try_clone_to_owned()?, Interest::READABLE) }?;
    let own = capture.own_cgroups().map_err(io::Error::other)?;
    let mut warden = Warden::new(capture, counters, own.into_iter().collect(), events);
    let mut interval = time::interval(CHECK_INTERVAL);
    interval.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        let all = tokio::select! {
            _ = interval.tick() => true,
            changed = wanted.changed() => match changed {
                Ok(()) => true,
                Err(_) => return Ok(()),
            },
            readable = readiness.readable() => {
                readable?.clear_ready();
                warden.read(&wanted.borrow())
            }
        };
        if all {
            let guards = wanted.borrow_and_update().clone();
            *standing.lock() = warden.look(&guards);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guards(parent: &str, depths: Depths, all: bool, answer: Answer) -> Guards {
        Guards { parents: BTreeMap::from([(parent.into(), depths)]), all, judge: Arc::new(move |_| answer) }
    }

    #[test]
    fn of_two_that_want_something_each_is_asked_about_its_own() {
        let pods = guards("/cg/kubepods", Depths::TWO, true, Answer::Held);
        let bindings = guards("/cg/machine.slice", Depths::CHILDREN, true, Answer::NotOurs);
        let both = bindings.with(&pods);
        assert_eq!((both.parents.len(), both.all), (2, true));
        assert_eq!((both.judge)(Path::new("/cg/kubepods/pod1")), Answer::Held);
        assert_eq!((both.judge)(Path::new("/cg/machine.slice/x")), Answer::NotOurs);
        assert!(!both.with(&Guards::unknown()).all, "what is not known takes no guard away");
    }

    #[test]
    fn of_two_with_one_parent_the_stricter_counts() {
        let held = guards("/cg/a", Depths::CHILDREN, true, Answer::Held);
        let free = guards("/cg/a", Depths::TWO, true, Answer::NotOurs);
        for both in [held.with(&free), free.with(&held)] {
            assert_eq!(both.parents[Path::new("/cg/a")], Depths::TWO);
            assert_eq!((both.judge)(Path::new("/cg/a/x")), Answer::Held);
        }
    }
}
