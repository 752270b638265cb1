//! A machine's cgroups: one in every hierarchy, so that what runs on the machine sees them as roots, as on a machine of its own.
//!
//! Hybrid hosts (cgroup v1 with v2 beside it) and hosts with v2 alone.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::wait;

/// How long killed processes get to leave their cgroups.
const PATIENCE: Duration = Duration::from_secs(20);

/// A cgroup hierarchy of this machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Hierarchy {
    /// Where it is mounted.
    pub(super) mount: PathBuf,
    /// Options to mount it with; none for v2.
    pub(super) options: Option<String>,
    /// The cgroup of this process in it, relative to the mount.
    current: PathBuf,
}

impl Hierarchy {
    /// Makes the cgroup `name` below ours. Where v2 has the controllers it is made below the root instead, because a cgroup
    /// with processes cannot pass controllers on.
    fn make(&self, name: &str, alone: bool) -> Result<PathBuf> {
        let parent = if alone { self.mount.clone() } else { self.mount.join(&self.current) };
        let path = parent.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        if self.options.as_deref().is_some_and(|options| options.split(',').any(|one| one == "cpuset")) {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                fs::read(parent.join(file))
                    .and_then(|value| fs::write(path.join(file), value))
                    .with_context(|| format!("cannot set {file} of {}", path.display()))?;
            }
        }
        if alone {
            enable_controllers(&parent)?;
        }
        Ok(path)
    }
}

/// All hierarchies of this machine that are mounted.
pub(super) fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let own = fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
    let found = parse(&mounts, &own);
    if !found.iter().any(|hierarchy| hierarchy.options.is_none()) {
        bail!("no cgroup v2 hierarchy is mounted on this machine: Egret needs one");
    }
    Ok(found)
}

/// Whether cgroup v2 is all there is.
pub(super) fn v2_alone(hierarchies: &[Hierarchy]) -> bool {
    hierarchies.iter().all(|hierarchy| hierarchy.options.is_none())
}

/// Makes `name` in every hierarchy.
pub(super) fn make(hierarchies: &[Hierarchy], name: &str) -> Result<Vec<PathBuf>> {
    let alone = v2_alone(hierarchies);
    hierarchies.iter().map(|hierarchy| hierarchy.make(name, alone)).collect()
}

/// Where [`make`] would make `name`.
pub(super) fn places(hierarchies: &[Hierarchy], name: &str) -> Vec<PathBuf> {
    let both = |hierarchy: &Hierarchy| {
        [hierarchy.mount.join(&hierarchy.current).join(name), hierarchy.mount.join(name)]
    };
    hierarchies.iter().flat_map(both).filter(|path| path.exists()).collect()
}

/// Kills what is in a cgroup and below, and removes all of it.
pub(super) fn remove(path: &Path) -> Result<()> {
    let mut last = None;
    let gone = wait::settled(PATIENCE, || {
        last = remove_once(path).err();
        !path.exists()
    });
    match last {
        Some(error) if !gone => {
            Err(error).with_context(|| format!("cannot remove the cgroup {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn remove_once(path: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(path) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type()?.is_dir() {
            remove_once(&entry.path())?;
        }
    }
    let processes = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
    for process in processes.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0) {
        // It may have ended by itself just now.
        let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
    }
    Ok(fs::remove_dir(path)?)
}

/// Passes all controllers on to the children of a v2 cgroup.
fn enable_controllers(path: &Path) -> Result<()> {
    let controllers = fs::read_to_string(path.join("cgroup.controllers"))
        .with_context(|| format!("cannot read the controllers of {}", path.display()))?;
    let words: Vec<String> = controllers.split_whitespace().map(|name| format!("+{name}")).collect();
    fs::write(path.join("cgroup.subtree_control"), words.join(" "))
        .with_context(|| format!("cannot pass on the controllers of {}", path.display()))
}

/// Hierarchies from the texts of `/proc/self/mounts` and `/proc/self/cgroup`.
fn parse(mounts: &str, own: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, mount, kind, options, ..] = fields[..] else { continue };
        let name = match kind {
            "cgroup2" => None,
            "cgroup" => Some(options.split(',').filter(|word| !is_flag(word)).collect::<Vec<_>>().join(",")),
            _ => continue,
        };
        let current = own.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let same = match &name {
                None => id == "0",
                Some(name) => name == controllers,
            };
            same.then(|| PathBuf::from(path.trim_start_matches('/')))
        });
        let Some(current) = current else { continue };
        // The same hierarchy may be mounted in several places.
        if found.iter().all(|hierarchy| hierarchy.options != name) {
            found.push(Hierarchy { mount: PathBuf::from(mount), options: name, current });
        }
    }
    found
}

/// Options of any mount, which say nothing about the hierarchy.
fn is_flag(option: &str) -> bool {
    const FLAGS: [&str; 8] = ["rw", "ro", "nosuid", "nodev", "noexec", "relatime", "xattr", "clone_children"];
    FLAGS.contains(&option) || option.starts_with("release_agent=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_host() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,release_agent=/x,name=systemd 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n\
            cgroup2 /elsewhere cgroup2 rw,relatime 0 0\n";
        let own = "2:name=systemd:/\n1:cpu,cpuacct:/a/b\n0::/user\n";
        let found = parse(mounts, own);
        let all: Vec<_> = found
            .iter()
            .map(|one| (one.mount.to_str().unwrap(), one.options.as_deref(), one.current.to_str().unwrap()))
            .collect();
        assert_eq!(
            all,
            [
                ("/sys/fs/cgroup/cpu,cpuacct", Some("cpu,cpuacct"), "a/b"),
                ("/sys/fs/cgroup/systemd", Some("name=systemd"), ""),
                ("/sys/fs/cgroup/unified", None, "user"),
            ]
        );
        assert!(!v2_alone(&found));
    }

    #[test]
    fn host_with_v2_alone() {
        let found = parse("cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n", "0::/user.slice/x\n");
        assert!(v2_alone(&found));
        assert_eq!(found[0].mount, Path::new("/sys/fs/cgroup"));
    }
}
