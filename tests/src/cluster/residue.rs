//! What Egret has on a node of the cluster: pins, programs on cgroups and links, and state. Asked of the node and of the kernel, not of
//! Egret.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{Cluster, Machine, plan::NODES};
use crate::{bpf, wait};

/// `BPF_CGROUP_DEVICE`: on hosts with cgroup v2 alone, container runtimes have programs of this kind.
const DEVICE: u32 = 6;
/// What the kernel gets to let go of what nothing refers to.
const PATIENCE: Duration = Duration::from_secs(10);

impl Cluster {
    /// What there is of Egret on the nodes, one sentence each.
    pub fn residue(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for name in NODES {
            let node = self.node(name)?;
            let mut add = |what: String| left.push(format!("{name}: {what}"));
            for path in node.run("find", &["/sys/fs/bpf", "-mindepth", "1", "-name", "*egret*"])?.lines() {
                add(path.to_owned());
            }
            // The directory itself the kubelet makes, and does not take away.
            for path in node.run("sh", &["-c", "find /run/egret -mindepth 1 2>/dev/null || true"])?.lines() {
                add(path.to_owned());
            }
            for cgroup in self.cgroups_of_pods(&node)? {
                if cgroup.file_name().is_some_and(|name| name.to_string_lossy().contains("egret")) {
                    add(format!("cgroup {}", cgroup.display()));
                }
                // A pod may just be ending.
                let programs = bpf::attached(&cgroup).unwrap_or_default();
                for (kind, program) in programs.into_iter().filter(|(kind, _)| *kind != DEVICE) {
                    add(format!("program {program} of attach type {kind} on {}", cgroup.display()));
                }
            }
            for line in node.run("tc", &["qdisc", "show"])?.lines().filter(|line| line.contains("clsact")) {
                add(line.to_owned());
            }
        }
        Ok(left)
    }

    /// The programs on the cgroups of all pods.
    pub fn programs_on_pods(&self) -> Result<BTreeSet<u32>> {
        let mut all = BTreeSet::new();
        for name in NODES {
            for cgroup in self.cgroups_of_pods(&self.node(name)?)? {
                let programs = bpf::attached(&cgroup).unwrap_or_default();
                all.extend(programs.into_iter().filter(|(kind, _)| *kind != DEVICE).map(|(_, id)| id));
            }
        }
        Ok(all)
    }

    /// Waits until nothing is left on any node, and none of these programs in the kernel.
    pub fn wait_for_no_residue(&self, programs: &BTreeSet<u32>) -> Result<()> {
        let mut last = Vec::new();
        let none = wait::settled(PATIENCE, || {
            last = self.residue().unwrap_or_else(|error| vec![format!("{error:#}")]);
            let loaded = programs.iter().filter(|id| bpf::is_loaded(**id).unwrap_or(true));
            last.extend(loaded.map(|id| format!("program {id} is loaded")));
            last.is_empty()
        });
        if none { Ok(()) } else { bail!("left on the nodes:\n{}", last.join("\n")) }
    }

    /// The cgroups (v2) of a node's pods and of their containers, with those above them, as this machine names them.
    fn cgroups_of_pods(&self, node: &Machine) -> Result<Vec<PathBuf>> {
        let list = self.plan().state().join("machines").join(node.name()).join("cgroups");
        let groups = fs::read_to_string(&list).with_context(|| list.display().to_string())?;
        let v2 = groups.lines().map(Path::new).find(|group| group.join("cgroup.controllers").exists());
        let v2 = v2.with_context(|| format!("no cgroup v2 in {}", list.display()))?;
        let mut found = Vec::new();
        for entry in fs::read_dir(v2)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with("kubepods") {
                collect(&entry.path(), &mut found);
            }
        }
        Ok(found)
    }
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    found.push(directory.to_owned());
    // It may be gone already.
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), found);
        }
    }
}
