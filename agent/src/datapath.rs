//! The user-space half of capture: loads the kernel programs, attaches them to cgroups, reads and writes their maps.
//!
//! The only module that names aya. `node` calls it. Decides nothing about workloads; what the kernel programs decide is
//! written down in `agent/ARCHITECTURE.md`, "Capture".

mod attach;
mod bpffs;
mod bypass;
mod counters;
mod events;
mod guard;
mod levels;
mod link;
mod loader;
mod older;
mod original_destination;
mod pins;
pub mod probe;
mod resolvers;
mod storage;
mod syscall;
#[cfg(test)]
mod tests;
mod verifier;
mod versions;

use std::{
    collections::{HashMap, HashSet},
    fmt, io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use agent_common::names;
use aya::Ebpf;
use ipnet::IpNet;
use parking_lot::Mutex;

pub use agent_common::{Figures, Standing};

use self::pins::Pins;
pub use self::{
    bpffs::Bpffs,
    events::{Call, Caller, Event, Events},
    guard::{Class, Depths},
    link::{Connection, Device},
    original_destination::Taken,
    resolvers::Numbered,
};

/// Why the kernel half could not be set up or changed; says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Error {
    /// The step, with program, map or path.
    pub what: String,
    /// The cause and the remedy.
    pub why: String,
}

impl Error {
    fn new(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self { what: what.to_string(), why: why.to_string() }
    }
}

/// What the kernel programs know of one workload (the cgroup-storage value).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkloadPolicy {
    /// Names the workload in the original-destination map; never 0, which refuses every connection.
    pub workload: u32,
    /// First port of the listener on 127.0.0.1; 0 refuses.
    pub listener_v4: u16,
    /// First port of the listener on `::1`; 0 refuses.
    pub listener_v6: u16,
    /// How many consecutive ports each of the two has; 0 means 1.
    pub listener_ports: u8,
    /// The namespace has no IPv4 route: `connect()` fails with ENETUNREACH, as it would without us.
    pub no_route_v4: bool,
    /// The same for IPv6.
    pub no_route_v6: bool,
    /// No process of it is in the agent's network namespace: it binds nothing but TCP there.
    pub own_network: bool,
    /// While nobody listens at the listener, connections go out directly instead of being refused.
    pub bypass_when_down: bool,
    /// Connections that no program saw begin do not leave, unless [`Capture::judge_older`] says so.
    pub drops_older: bool,
    /// Where what it sends to a resolver goes; absent: to the resolver.
    pub dns: Option<DnsListeners>,
}

/// First ports of a workload's DNS listeners, one port per resolver of the family, by its number; 0 refuses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DnsListeners {
    /// On 127.0.0.1.
    pub v4: u16,
    /// On `::1`.
    pub v6: u16,
}

/// The loaded programs and maps; links and maps are pinned under a directory in bpffs, so that they outlive the process
/// and connections are refused, not let out, while no agent runs.
///
/// Dropping it changes nothing in the kernel: see [`Capture::detach`] and [`cleanup`].
pub struct Capture {
    /// The directory of the instance, with one below it per layout version.
    root: PathBuf,
    /// What our version has there.
    pins: Pins,
    /// Only for attaching.
    programs: Mutex<Ebpf>,
    /// The kernel's ids of these programs, by name.
    program_ids: HashMap<&'static str, u32>,
    /// The cgroups on which nothing of another version is attached any more, by inode. Whether that is so takes a look at the links of
    /// all workloads, and every workload is checked every few seconds.
    settled: Mutex<HashSet<u64>>,
    policies: OwnedFd,
    guards: OwnedFd,
    classes: OwnedFd,
    originals: OwnedFd,
    accepted: OwnedFd,
    older: OwnedFd,
    links: OwnedFd,
    sources: OwnedFd,
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture").field("pins", &self.pins).finish_non_exhaustive()
    }
}

impl Capture {
    /// Loads the programs, or re-adopts the maps pinned under `pin_directory` by an earlier agent of this layout version.
    /// `pin_directory` is made if it is missing, and must be in a bpffs (see [`Bpffs`]).
    pub fn load(pin_directory: &Path) -> Result<Self, Error> {
        let ours = versions::ours(pin_directory);
        let (fresh, fresh_version) = (!pin_directory.exists(), !ours.exists());
        Self::load_at(pin_directory.to_owned(), &ours).inspect_err(|_| {
            // What was made until then is of no use to anybody. The first error is the one that matters.
            if fresh {
                let _ = cleanup(pin_directory);
            } else if fresh_version {
                let _ = Pins::at(ours).remove_all();
            }
        })
    }

    fn load_at(root: PathBuf, ours: &Path) -> Result<Self, Error> {
        let pins = Pins::open(ours)?;
        let mut programs = loader::load(&pins)?;
        Ok(Self {
            root,
            policies: pins.open_map(names::POLICY)?,
            guards: pins.open_map(names::GUARD)?,
            classes: pins.open_map(names::CLASSES)?,
            originals: pins.open_map(names::ORIGINAL)?,
            accepted: pins.open_map(names::ACCEPTED)?,
            older: pins.open_map(names::OLDER)?,
            links: pins.open_map(names::LINKS)?,
            sources: pins.open_map(names::SOURCES)?,
            program_ids: loader::ids(&mut programs)?,
            settled: Mutex::default(),
            programs: Mutex::new(programs),
            pins,
        })
    }

    /// Attaches every program to `cgroup`, in the order that leaves no window, and pins the links. On a cgroup that is
    /// attached already (a restarted agent), the links stay, the programs behind them are brought up to date, and the policy
    /// is written. When it fails, what it attached is detached again. When all of ours are there, what another layout version
    /// has attached goes, connect first and the rest by the next call: at no time is the cgroup without. Returns how many
    /// programs were not attached before: on an enrolled cgroup anything but 0 means that somebody detached them.
    pub fn attach(&self, cgroup: &Path, policy: &WorkloadPolicy) -> Result<usize, Error> {
        let missing = attach::attach(self, cgroup, policy)?;
        let (_, inode) = attach::open_cgroup(cgroup)?;
        if !self.is_settled(inode) {
            let others = versions::step_down(&self.root, &inode.to_string()).map_err(|error| {
                Error::new(format_args!("programs of another version on cgroup {}", cgroup.display()), error)
            })?;
            if !others {
                self.settled.lock().insert(inode);
            }
        }
        Ok(missing)
    }

    /// Whether a program is the one that this process has loaded for a hook: up to date, and on our maps.
    fn is_loaded(&self, hook: &attach::Hook, program: u32) -> bool {
        self.program_ids.get(hook.program) == Some(&program)
    }

    fn is_settled(&self, cgroup_inode: u64) -> bool {
        self.settled.lock().contains(&cgroup_inode)
    }

    /// Removes what other layout versions have pinned and no workload needs any more. To be called a moment after every workload
    /// was attached. Returns how many versions went.
    pub fn retire_other_versions(&self) -> Result<usize, Error> {
        versions::retire_others(&self.root)
    }

    /// Replaces the policy of an attached cgroup.
    pub fn set_policy(&self, cgroup: &Path, policy: &WorkloadPolicy) -> Result<(), Error> {
        let (_, inode) = attach::open_cgroup(cgroup)?;
        storage::write(&self.policies, inode, policy).map_err(|error| {
            let why = match error.raw_os_error() {
                Some(nix::libc::ENOENT) => "nothing is attached to this cgroup".to_owned(),
                _ => error.to_string(),
            };
            Error::new(format_args!("policy of cgroup {}", cgroup.display()), why)
        })
    }

    /// Detaches every program from the cgroup with this inode. Its directory may be gone already; nothing attached is not
    /// an error.
    pub fn detach(&self, cgroup_inode: u64) -> Result<(), Error> {
        self.settled.lock().remove(&cgroup_inode);
        versions::detach(&self.root, &cgroup_inode.to_string())
            .map_err(|error| Error::new(format_args!("detaching from cgroup {cgroup_inode}"), error))?;
        self.forget(cgroup_inode)
    }

    /// Strict start: from now on whoever is below `parent`, and not in a cgroup that is classified, goes only where everybody
    /// may go. Classify what is there first. On a parent that is guarded already, the programs are brought up to date.
    /// Returns how many programs were not attached before.
    pub fn guard(&self, parent: &Path, depths: Depths) -> Result<usize, Error> {
        guard::attach(self, parent, depths)
    }

    /// Takes the guard from the parent with this inode. Its directory may be gone; no guard is not an error.
    pub fn unguard(&self, parent_inode: u64) -> Result<(), Error> {
        guard::detach(self, parent_inode)
    }

    /// The inodes of the guarded parents, an earlier agent's too.
    pub fn guarded(&self) -> Result<Vec<u64>, Error> {
        guard::guarded(self)
    }

    /// Says what a cgroup below a guarded parent is: from now on the guard lets it pass. [`Capture::attach`] says it by
    /// itself, when its programs are attached.
    pub fn classify(&self, cgroup_inode: u64, class: Class) -> Result<(), Error> {
        guard::classify(self, cgroup_inode, class)
    }

    /// Takes back what was said of a cgroup. [`Capture::detach`] does it by itself. Nothing said is not an error.
    pub fn forget(&self, cgroup_inode: u64) -> Result<(), Error> {
        guard::forget(self, cgroup_inode)
    }

    /// Every cgroup that is classified, by inode.
    pub fn classes(&self) -> Result<HashMap<u64, Class>, Error> {
        guard::classes(self)
    }

    /// The inodes of the cgroups that this process is in, by their level in the whole tree: the root first, its own last.
    pub fn own_cgroups(&self) -> Result<Vec<u64>, Error> {
        levels::ancestors(&mut self.programs.lock())
            .map_err(|error| Error::new("the cgroup of this process", loader::hint(&error)))
    }

    /// Takes the original destination of a connection that a workload's listener accepted from `peer` at the port
    /// `listener`: once. None: the connection was not captured (or is gone already), and must be reset.
    pub fn take_original_destination(&self, workload: u32, peer: SocketAddr, listener: u16) -> Option<Taken> {
        original_destination::take(&self.originals, workload, peer, listener)
    }

    /// Makes the bypassed ranges equal to `ranges`. An IPv6 range never covers IPv4 destinations, not even `::/0`.
    pub fn set_bypass(&self, ranges: &[IpNet]) -> Result<(), Error> {
        bypass::set(&self.pins, ranges)
    }

    /// Whether an address is in a bypassed range.
    pub fn is_bypassed(&self, address: IpAddr) -> Result<bool, Error> {
        bypass::contains(&self.pins, address)
    }

    /// Makes the DNS resolvers that workloads may ask, over UDP and TCP, equal to `resolvers`: without the gateway, or by their
    /// DNS listeners, as [`WorkloadPolicy::dns`] says.
    pub fn set_resolvers(&self, resolvers: &[SocketAddr]) -> Result<(), Error> {
        resolvers::set(&self.pins, resolvers)
    }

    /// Makes the gateways that workloads may open tunnels to from their own network namespace equal to `gateways`.
    pub fn set_gateways(&self, gateways: &[SocketAddr]) -> Result<(), Error> {
        resolvers::set_gateways(&self.pins, gateways)
    }

    /// The gateways that workloads may open tunnels to.
    pub fn gateways(&self) -> Result<Vec<SocketAddr>, Error> {
        resolvers::read(&self.pins, names::GATEWAYS)
    }

    /// Locks the host's side of a workload's link, or brings its lock up to date. `older`: the TCP connections by this link
    /// that may go on; asked only where there was no lock before. Returns how many programs of a lock that was there were
    /// not attached any more, or had another program before them.
    pub fn lock(
        &self,
        device: &Device,
        workload: u32,
        older: impl FnOnce() -> io::Result<Vec<Connection>>,
    ) -> Result<usize, Error> {
        let missing = link::lock(self, device, workload, older)?;
        link::replace_other_versions(&self.root, device.index)?;
        Ok(missing)
    }

    /// Takes away the lock on a device, which may be gone already.
    pub fn unlock(&self, device: u32) -> Result<(), Error> {
        link::unlock(&self.pins, device)?;
        link::replace_other_versions(&self.root, device)
    }

    /// The devices with a lock of this workload, whether it is in force or not.
    pub fn locked(&self, workload: u32) -> Result<Vec<u32>, Error> {
        link::locked(&self.pins, workload)
    }

    /// Addresses that are the workload's own at this device.
    pub fn sources(&self, device: u32) -> Result<Vec<IpAddr>, Error> {
        link::sources(&self.pins, device)
    }

    /// Whether an address is one of them.
    pub fn is_source(&self, device: u32, address: IpAddr) -> Result<bool, Error> {
        link::is_source(self, device, address)
    }

    /// Makes an address the workload's own.
    pub fn add_source(&self, device: u32, address: IpAddr) -> Result<(), Error> {
        link::add_source(&self.pins, device, address)
    }

    /// What the kernel programs hold to be bypassed now: also what an earlier agent wrote.
    pub fn bypass(&self) -> Result<Vec<IpNet>, Error> {
        bypass::read(&self.pins)
    }

    /// The resolvers that the kernel programs know now: also what an earlier agent wrote.
    pub fn resolvers(&self) -> Result<Vec<SocketAddr>, Error> {
        resolvers::read(&self.pins, names::RESOLVERS)
    }

    /// The socket storage of connections that came from outside, for sock_diag(7), which tells for each socket whether it has one.
    pub fn accepted(&self) -> BorrowedFd<'_> {
        self.accepted.as_fd()
    }

    /// Says how the connection of the socket with this cookie, which no program saw begin, is treated from now on.
    pub fn judge_older(&self, workload: u32, cookie: u64, standing: Standing) -> Result<(), Error> {
        older::write(&self.older, workload, cookie, standing)
            .map_err(|error| self.pins.map_error(names::OLDER, error))
    }

    /// What was said of the socket with this cookie.
    pub fn older(&self, cookie: u64) -> Result<Option<Standing>, Error> {
        older::read(&self.older, cookie).map_err(|error| self.pins.map_error(names::OLDER, error))
    }

    /// The kernel's id of the map in which [`Capture::judge_older`] writes. An agent that finds another one than before has to say
    /// everything again.
    pub fn older_map(&self) -> Result<u32, Error> {
        syscall::map_id(&self.older).map_err(|error| self.pins.map_error(names::OLDER, error))
    }

    /// Forgets what was said of a workload's sockets.
    pub fn forget_older(&self, workload: u32) -> Result<(), Error> {
        older::forget(&self.pins, workload)
    }

    /// What the programs tell of bypassed connections and refused calls. There is one reader: a second call is an error. To be
    /// called in a tokio runtime.
    pub fn take_events(&self) -> Result<Events, Error> {
        Events::take(&mut self.programs.lock())
    }

    /// Decisions of the kernel programs since the maps were made, by name (`captured`, `bypassed_loopback`, …).
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, Error> {
        counters::read(&self.pins)
    }

    /// How many events the programs could not tell, since they were first loaded.
    pub fn lost_events(&self) -> Result<u64, Error> {
        counters::lost_events(&self.pins)
    }

    /// How many packets there were, of all workloads, of connections that no program saw begin and that [`Capture::judge_older`] has
    /// not let go on. When it rises, there is such a connection.
    pub fn unjudged(&self) -> Result<u64, Error> {
        counters::unjudged(&self.pins)
    }

    /// Removes original destinations that nobody took for a minute, and returns how many.
    pub fn sweep(&self) -> Result<usize, Error> {
        self.sweep_older_than(original_destination::MAX_AGE)
    }

    /// The same with another age.
    pub fn sweep_older_than(&self, age: Duration) -> Result<usize, Error> {
        original_destination::sweep(&self.pins, age)
    }
}

/// Lets the cgroup with this inode pass every guard that any layout version has pinned under `pin_directory`: for who has to ask
/// others before it can load anything. None pinned is not an error.
pub fn admit(pin_directory: &Path, cgroup_inode: u64) -> Result<(), Error> {
    guard::admit(pin_directory, cgroup_inode)
}

/// Removes every pin of every layout version under `pin_directory`, which detaches the programs, and the directory. Traffic is
/// direct again. A directory that does not exist is fine.
pub fn cleanup(pin_directory: &Path) -> io::Result<()> {
    versions::remove_all(pin_directory)
}
