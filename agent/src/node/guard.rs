//! Strict start, the node's side: sees every cgroup that is made below a guarded parent, and says at once which ones are left
//! alone. What is to be captured is not named here: the guard refuses it until `Capture::attach` has attached its programs.
//!
//! `app::agent` runs it, `node::binding` says what is wanted. What the guard refuses is in
//! `agent/ARCHITECTURE.md`, "Strict start".

mod warden;

use std::{
    collections::BTreeMap,
    fs, io,
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
use super::{agent::Agent, cgroup::Hierarchy, counters::Counters};
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
    /// When nobody has said anything yet: the guards of an earlier agent stay.
    pub fn unknown() -> Self {
        Self { parents: BTreeMap::new(), all: false, judge: Arc::new(|_| Answer::Held) }
    }
}

impl Agent {
    /// Guards what is wanted, until the sender is gone.
    pub async fn guard(self: Arc<Self>, wanted: watch::Receiver<Guards>) {
        if let Err(e) = run(&self.capture, &self.counters, &self.guards, wanted).await {
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
    let mut warden = Warden::new(capture, counters, own_cgroup()?, events);
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

/// The cgroup of this process.
fn own_cgroup() -> io::Result<PathBuf> {
    let cgroups = fs::read_to_string("/proc/self/cgroup")?;
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    Ok(Hierarchy::find()?.root().join(path))
}
