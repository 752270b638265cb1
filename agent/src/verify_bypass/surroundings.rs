//! The process changes what is around it, not its socket: user, cgroup, network namespace.

use std::{
    fs::{self, File, OpenOptions},
    io, iter,
    net::SocketAddr,
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{
    libc,
    sched::{CloneFlags, setns, unshare},
};
use socket2::{Domain, Socket};

use super::{
    local, tcp,
    vector::{
        Attempt,
        Expected::{Blocked, Captured},
        Probe, Vector, attempt,
    },
};
use crate::node::cgroup::Hierarchy;

pub(super) const VECTORS: &[Vector] = &[
    Vector { name: "other uid", expected: Captured, attempt: other_user },
    Vector { name: "nested cgroup", expected: Captured, attempt: nested_cgroup },
    Vector { name: "moved to the root cgroup", expected: Blocked, attempt: root_cgroup },
    Vector { name: "nested network namespace", expected: Captured, attempt: nested_namespace },
    Vector { name: "an ancestor's network namespace", expected: Captured, attempt: outer_namespace },
];

/// What a child of [`in_cgroup`] runs.
const IN_CHILD: &str = "tcp connect";

fn other_user(probe: &Probe<'_>) -> Attempt {
    /// Nobody, on every distribution.
    const NOBODY: libc::uid_t = 65_534;
    // By the system call itself, which changes this thread only; it ends with the attempt.
    // SAFETY: plain numbers.
    if unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) } != 0 {
        return Attempt::not_available(format_args!("setresuid: {}", io::Error::last_os_error()));
    }
    tcp::plain(probe)
}

fn nested_cgroup(probe: &Probe<'_>) -> Attempt {
    let directory = match own_cgroup() {
        Ok(own) => own.join(format!("verify-bypass-{}", std::process::id())),
        Err(error) => return Attempt::not_available(error),
    };
    if let Err(error) = fs::create_dir(&directory) {
        return Attempt::not_available(format_args!("cgroup {}: {error}", directory.display()));
    }
    let attempt = in_cgroup(probe, &directory);
    // Its only process was waited for. Should it stay, it is empty and goes with the workload.
    drop(fs::remove_dir(&directory));
    attempt
}

/// With a writable cgroupfs a process can leave; what it opens then is not the workload's any more.
fn root_cgroup(probe: &Probe<'_>) -> Attempt {
    match Hierarchy::find() {
        Ok(hierarchy) => in_cgroup(probe, hierarchy.root()),
        Err(error) => Attempt::not_available(error),
    }
}

/// This process's cgroup: the line of /proc/self/cgroup with hierarchy 0 (cgroups(7)).
fn own_cgroup() -> io::Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let path = path.ok_or_else(|| io::Error::other("this process has no cgroup of version 2"))?;
    Ok(Hierarchy::find()?.root().join(path))
}

/// A plain connect by a child that is in the cgroup before its first instruction.
fn in_cgroup(probe: &Probe<'_>, directory: &Path) -> Attempt {
    let target = match probe.target() {
        Ok(target) => target,
        Err(attempt) => return attempt,
    };
    let run = || -> io::Result<Attempt> {
        let procs = OpenOptions::new().write(true).open(directory.join("cgroup.procs"))?;
        let mut child = Command::new(std::env::current_exe()?);
        child.args(["verify-bypass", "--single", IN_CHILD, "--target", &target.to_string()]);
        // SAFETY: between fork and exec only write(2), on a descriptor opened before. "0" is the writing process itself.
        unsafe { child.pre_exec(move || Ok(nix::unistd::write(&procs, b"0").map(drop)?)) };
        let output = child.stdin(Stdio::null()).output()?;
        serde_json::from_slice(&output.stdout).map_err(io::Error::from)
    };
    run().unwrap_or_else(|error| {
        Attempt::not_available(format_args!("cgroup {}: {error}", directory.display()))
    })
}

/// A new namespace has no way out of its own; a socket from before it has.
fn nested_namespace(probe: &Probe<'_>) -> Attempt {
    let target = match probe.target() {
        Ok(target) => SocketAddr::from(target),
        Err(attempt) => return attempt,
    };
    match local::stream(Domain::IPV4, None) {
        Ok((socket, port)) => match unshare(CloneFlags::CLONE_NEWNET) {
            Ok(()) => tcp::connected(socket, port, probe, target, Socket::connect),
            Err(error) => Attempt::not_available(format_args!("unshare: {error}")),
        },
        Err(error) => Attempt::not_available(format_args!("no socket: {error}")),
    }
}

/// With CAP_SYS_ADMIN, and processes outside in sight, their network is one call away.
fn outer_namespace(probe: &Probe<'_>) -> Attempt {
    attempt(|| {
        let unavailable = |error: io::Error| Attempt::not_available(format_args!("setns: {error}"));
        let own = fs::metadata("/proc/thread-self/ns/net").map_err(unavailable)?.ino();
        let mut outer = ancestors().filter_map(|id| File::open(format!("/proc/{id}/ns/net")).ok());
        let is_other = |one: &File| one.metadata().is_ok_and(|found| found.ino() != own);
        let Some(outer) = outer.find(is_other) else {
            return Err(Attempt::not_available("no ancestor in sight has another"));
        };
        setns(outer, CloneFlags::CLONE_NEWNET).map_err(|error| unavailable(error.into()))?;
        Ok(tcp::plain(probe))
    })
}

/// Process ids from the parent up.
fn ancestors() -> impl Iterator<Item = u32> {
    let parent = |id: &u32| {
        let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
        (parent != 0).then_some(parent)
    };
    iter::successors(parent(&std::process::id()), parent)
}
