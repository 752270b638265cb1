//! The programs in the kernel while a workload runs: on its cgroup, and not on ours.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use egret_tests::{
    bpf,
    process::Process,
    residue::{self, Footprint},
    scenario::World,
    wait,
};

use crate::{packages, terminal::Terminal};

/// Shows what is attached to the cgroup of a workload that lives long enough to look.
pub(super) fn show(terminal: &mut Terminal, world: &World, footprint: &mut Footprint) -> Result<()> {
    terminal.section("In the kernel: programs on the workload's cgroup, and on no other")?;
    let mut command = world.egret.exec("default/sleep", false);
    command.args(["sleep", "600"]);
    let mut workload = Process::spawn("the workload", &mut command)?;
    let cgroup = wait::until("the workload to be enrolled", Duration::from_secs(10), || {
        let cgroups = residue::workload_cgroups(&world.egret)?;
        Ok(cgroups.into_iter().find(|cgroup| bpf::attached(cgroup).is_ok_and(|found| !found.is_empty())))
    })?;
    footprint.record(&world.egret)?;
    tree(terminal, &cgroup)?;

    let attached = bpf::attached(&cgroup)?;
    let ours = bpf::effective(&bpf::own_cgroup()?)?;
    if let Some((_, program)) = attached.intersection(&ours).next() {
        bail!("program {program} is in force for this process, which is no workload");
    }
    terminal.good(&format!(
        "{} attachments on the workload's cgroup, none in force for this process",
        attached.len()
    ))?;
    workload.terminate().map(drop)
}

fn tree(terminal: &mut Terminal, cgroup: &Path) -> Result<()> {
    if !packages::installed("bpftool") {
        return Ok(());
    }
    terminal.command(&format!("bpftool cgroup tree {}", cgroup.display()))?;
    let output = Command::new("bpftool")
        .args(["cgroup", "tree"])
        .arg(cgroup)
        .output()
        .context("cannot run bpftool")?;
    terminal.block(&String::from_utf8_lossy(&output.stdout))
}
