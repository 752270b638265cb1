//! What the kernel offers: cgroup v2, bpffs, type information, the programs themselves, LSM, lockdown.

use std::{fs, io, net::TcpListener, path::Path};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::Check;
use crate::{
    app::cleanup,
    datapath::probe::{self, Callers, Trial},
    node::sockets::{self, Protocol},
};

/// Everything about the kernel.
pub(super) fn checks() -> Vec<Check> {
    let mut checks =
        vec![cgroup(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()), bpffs(), btf()];
    checks.extend(programs());
    checks.push(sockets(end_a_socket()));
    checks.push(unprivileged(read("/proc/sys/kernel/unprivileged_bpf_disabled").as_deref()));
    checks.push(lockdown(read("/sys/kernel/security/lockdown").as_deref()));
    checks.push(lsm(&probe::lsm_cgroup(), read("/sys/kernel/security/lsm").as_deref()));
    checks
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn cgroup(mountinfo: &str) -> Check {
    const NAME: &str = "cgroup";
    let mut mounts = mountinfo.lines().filter_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        Some((source.split(' ').next()?, mount.split(' ').nth(4)?))
    });
    let (mut v2, mut v1) = (None, 0);
    for (kind, at) in &mut mounts {
        match kind {
            "cgroup2" => v2 = v2.or(Some(at)),
            "cgroup" => v1 += 1,
            _ => {}
        }
    }
    match (v2, v1) {
        (Some(at), 0) => Check::ok(NAME, format!("version 2 only, at {at}")),
        (Some(at), _) => {
            Check::ok(NAME, format!("hybrid: version 2 at {at}, beside {v1} hierarchies of version 1"))
        }
        (None, _) => Check::error(
            NAME,
            "no hierarchy of version 2 is mounted",
            "mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1",
        ),
    }
}

fn bpffs() -> Check {
    const NAME: &str = "bpffs";
    // Any instance's directory has the same parent.
    let path = cleanup::pin_directory("doctor");
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match statfs(existing) {
        Ok(found) if found.filesystem_type() == BPF_FS_MAGIC => {
            Check::ok(NAME, format!("mounted at {}", existing.display()))
        }
        _ if read("/proc/filesystems")
            .is_some_and(|list| list.lines().any(|line| line.ends_with("\tbpf"))) =>
        {
            Check::ok(NAME, "not mounted; the agent mounts one")
        }
        _ => Check::error(
            NAME,
            "the kernel has no BPF file system",
            "a kernel with CONFIG_BPF_SYSCALL is needed",
        ),
    }
}

/// Finds a socket in the kernel's list, and ends it.
fn end_a_socket() -> io::Result<bool> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let listed = sockets::list(Protocol::Tcp, &[], None)?;
    let own = listed.iter().find(|socket| socket.local == address);
    own.map_or_else(|| Err(io::Error::other("a listening socket is not in the list")), sockets::destroy)
}

fn sockets(probed: io::Result<bool>) -> Check {
    const NAME: &str = "sockets";
    match probed {
        Ok(true) => Check::ok(NAME, "can be listed and ended: connections that escape are found and reset"),
        Ok(false) => {
            Check::error(NAME, "the kernel says of a socket that is open that it is not", "report this")
        }
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Check::warning(
            NAME,
            "cannot be ended from outside: what is older than the enrolment, or escaped, is dropped without a reset",
            "a kernel with CONFIG_INET_DIAG_DESTROY",
        ),
        Err(error) => Check::error(
            NAME,
            format!("cannot be listed and ended: {error}"),
            "run as root (CAP_NET_ADMIN), on a kernel with CONFIG_INET_DIAG and CONFIG_INET_DIAG_DESTROY",
        ),
    }
}

fn btf() -> Check {
    const NAME: &str = "type information";
    const PATH: &str = "/sys/kernel/btf/vmlinux";
    match fs::metadata(PATH) {
        Ok(file) => Check::ok(NAME, format!("{PATH}, {} KiB", file.len() / 1024)),
        Err(error) => Check::warning(
            NAME,
            format!("{PATH}: {error}"),
            "kernels with CONFIG_DEBUG_INFO_BTF have it; the trial loads below say whether Egret does without",
        ),
    }
}

/// One check per program, so that the one that fails is known.
fn programs() -> Vec<Check> {
    const REMEDY: &str = "see the finding; 5.18 is the oldest kernel that can work";
    let takes_all = |trials: &Vec<Trial>| trials.iter().all(|trial| trial.outcome.is_ok());
    let (mut trials, mut note) = (probe::load_each(Callers::Asked), None);
    if !trials.as_ref().is_ok_and(takes_all)
        && let Ok(without) = probe::load_each(Callers::NotAsked)
        && takes_all(&without)
    {
        // Whatever an old kernel does not let programs ask, they do without.
        let what = "this kernel does not let the programs ask who is calling: flows have no process";
        note = Some(Check::warning("processes of flows", what, "Linux 6.1 or later lets them"));
        trials = Ok(without);
    }
    let mut checks = match trials {
        Err(error) => vec![Check::error("programs", error.to_string(), REMEDY)],
        Ok(trials) => trials
            .into_iter()
            .map(|trial| {
                let name = format!("program {}", trial.program);
                match trial.outcome {
                    Ok(took) => Check::ok(
                        name,
                        format!(
                            "the kernel takes it: {} instructions verified, {} states at most",
                            took.processed, took.peak_states
                        ),
                    ),
                    Err(error) => Check::error(name, error.why, REMEDY),
                }
            })
            .collect(),
    };
    checks.extend(note);
    checks
}

fn unprivileged(value: Option<&str>) -> Check {
    const NAME: &str = "unprivileged bpf";
    match value {
        Some("0") => Check::warning(
            NAME,
            "any user may load programs",
            "sysctl kernel.unprivileged_bpf_disabled=2, unless something here needs it",
        ),
        Some(value) => Check::ok(NAME, format!("off ({value})")),
        None => Check::ok(NAME, "this kernel has no such switch"),
    }
}

/// Level `confidentiality` forbids programs to read kernel memory; the list has the level in force in brackets.
fn lockdown(value: Option<&str>) -> Check {
    const NAME: &str = "lockdown";
    let level = value.and_then(|text| text.split('[').nth(1)?.split(']').next());
    match level {
        Some(level @ "confidentiality") => Check::warning(
            NAME,
            level,
            "the trial loads above say whether Egret's programs are affected; else boot with lockdown=integrity",
        ),
        Some(level) => Check::ok(NAME, level),
        None => Check::ok(NAME, "not in this kernel"),
    }
}

fn lsm(loads: &Result<bool, crate::datapath::Error>, active: Option<&str>) -> Check {
    const NAME: &str = "bpf lsm";
    let listed = active.map(|list| list.split(',').any(|module| module == "bpf"));
    let finding = match (loads, listed) {
        (Ok(true), Some(true)) => "programs load and run",
        (Ok(true), Some(false)) => {
            "programs load, but do not run: bpf is not among the active modules (lsm=)"
        }
        (Ok(true), None) => "programs load; securityfs is not mounted, so whether they run is not known",
        (Ok(false), _) => "not in this kernel; Egret does without",
        (Err(error), _) => {
            return Check::ok(NAME, format!("not usable, and Egret does without: {}", error.why));
        }
    };
    Check::ok(NAME, finding)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{cgroup, lockdown, lsm, sockets, unprivileged};
    use crate::doctor::Status;

    const V1: &str = "30 24 0:26 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu\n";
    const V2: &str = "31 24 0:27 / /sys/fs/cgroup/unified rw,relatime shared:10 - cgroup2 cgroup2 rw\n";

    #[test]
    fn cgroup_modes_are_told_apart() {
        assert_eq!(cgroup(V2).finding, "version 2 only, at /sys/fs/cgroup/unified");
        assert!(cgroup(&format!("{V1}{V2}")).finding.starts_with("hybrid"));
        assert_eq!(cgroup(V1).status, Status::Error);
        assert_eq!(cgroup("").status, Status::Error);
    }

    #[test]
    fn switches_are_judged() {
        assert_eq!(unprivileged(Some("0")).status, Status::Warning);
        assert_eq!(unprivileged(Some("2")).status, Status::Ok);
        assert_eq!(lockdown(Some("none [integrity] confidentiality")).finding, "integrity");
        assert_eq!(lockdown(Some("none integrity [confidentiality]")).status, Status::Warning);
        assert_eq!(lockdown(None).status, Status::Ok);
    }

    #[test]
    fn sockets_that_cannot_be_ended_are_told_from_those_that_cannot_be_listed() {
        assert_eq!(sockets(Ok(true)).status, Status::Ok);
        assert_eq!(sockets(Ok(false)).status, Status::Error);
        assert_eq!(sockets(Err(io::ErrorKind::Unsupported.into())).status, Status::Warning);
        assert_eq!(sockets(Err(io::ErrorKind::NotFound.into())).status, Status::Error);
    }

    #[test]
    fn an_lsm_that_does_not_run_is_told_from_one_that_does() {
        assert_eq!(lsm(&Ok(true), Some("capability,bpf")).finding, "programs load and run");
        assert!(lsm(&Ok(true), Some("capability,bpfx")).finding.contains("do not run"));
        assert!(lsm(&Ok(false), None).finding.contains("not in this kernel"));
    }
}
