//! The user-space half of capture: loads the kernel programs, attaches them to cgroups, reads and writes their maps.
//!
//! The only module that names aya. `node` calls it. Decides nothing about workloads.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use ipnet::IpNet;

/// Why the kernel half could not be set up or changed; says what to do.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Error {
    /// The step, with program, map or path.
    pub what: String,
    /// The cause and the remedy.
    pub why: String,
}

/// What the kernel programs know of one workload (the cgroup-storage value).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkloadPolicy {
    /// Names the workload in the original-destination map; never 0.
    pub workload: u32,
    /// Port of the listener on 127.0.0.1; 0 refuses.
    pub listener_v4: u16,
    /// Port of the listener on ::1; 0 refuses.
    pub listener_v6: u16,
    /// The namespace has no IPv4 route: connect() fails with ENETUNREACH, as it would without us.
    pub no_route_v4: bool,
    /// The same for IPv6.
    pub no_route_v6: bool,
}

/// The loaded programs and maps; links and maps are pinned under a directory in bpffs, so that they outlive the process
/// and connections are refused, not let out, while no agent runs.
pub struct Capture {}

impl Capture {
    /// Loads the programs, or re-adopts the maps pinned under `pin_directory` by an earlier agent of this version.
    pub fn load(pin_directory: &Path) -> Result<Self, Error> {
        let _ = pin_directory;
        unimplemented!()
    }

    /// Attaches every program to `cgroup`, in the order that leaves no window, and pins the links. On a cgroup that is
    /// attached already (a restarted agent), only the policy is written.
    pub fn attach(&self, cgroup: &Path, policy: &WorkloadPolicy) -> Result<(), Error> {
        let _ = (cgroup, policy);
        unimplemented!()
    }

    /// Replaces the policy of an attached cgroup.
    pub fn set_policy(&self, cgroup: &Path, policy: &WorkloadPolicy) -> Result<(), Error> {
        let _ = (cgroup, policy);
        unimplemented!()
    }

    /// Detaches every program from `cgroup`. Its directory may be gone already.
    pub fn detach(&self, cgroup_inode: u64) -> Result<(), Error> {
        let _ = cgroup_inode;
        unimplemented!()
    }

    /// Takes the original destination of a connection that a workload's listener accepted from `peer`: once.
    pub fn take_original_destination(&self, workload: u32, peer: SocketAddr) -> Option<SocketAddr> {
        let _ = (workload, peer);
        unimplemented!()
    }

    /// Makes the bypassed ranges equal to `ranges`.
    pub fn set_bypass(&self, ranges: &[IpNet]) -> Result<(), Error> {
        let _ = ranges;
        unimplemented!()
    }

    /// Decisions of the kernel programs since they were loaded, by name (`captured`, `bypassed_loopback`, …).
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, Error> {
        unimplemented!()
    }

    /// Removes original destinations that nobody took for a minute, and returns how many.
    pub fn sweep(&self) -> Result<usize, Error> {
        unimplemented!()
    }
}

/// Removes every pin under `pin_directory`, which detaches the programs.
pub fn cleanup(pin_directory: &Path) -> io::Result<()> {
    let _ = (pin_directory, IpAddr::V4, PathBuf::new);
    unimplemented!()
}
