//! Programs that somebody takes away under a running workload are noticed, counted, and attached again.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use egret::app::run_dir::RunDir;
use egret_tests::{bpf, process::Process, scenario::World, wait};

use crate::Rig;

/// The product promises five seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pinned links of the only workload.
fn links(world: &World) -> Result<Vec<PathBuf>> {
    let instance = RunDir::new(world.egret.run_dir()).instance();
    let directory = PathBuf::from("/sys/fs/bpf/egret").join(instance).join("v1/links");
    let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn reattached(world: &World) -> Result<u64> {
    let status = world.egret.status()?;
    status["agent"]["counters"]["programs_reattached"]
        .as_u64()
        .context("no programs_reattached in the status")
}

#[test]
fn detached_programs_are_attached_again() -> Result<()> {
    let Some(rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &rig.world;
    let mut command = world.egret.exec("default/sleep", false);
    command.args(["sleep", "60"]);
    let _workload = Process::spawn("a workload", &mut command)?;
    let cgroup = wait::until("the workload to be enrolled", PATIENCE, || {
        let status = world.egret.status()?;
        Ok(status["workloads"][0]["cgroup"].as_str().map(PathBuf::from))
    })?;
    let attached = bpf::attached(&cgroup)?.len();
    assert_ne!(attached, 0, "nothing is attached to {}", cgroup.display());
    assert_eq!(reattached(world)?, 0);

    let links = links(world)?;
    assert_eq!(links.len(), attached);
    for link in &links {
        fs::remove_file(link).with_context(|| format!("cannot remove {}", link.display()))?;
    }
    wait::until("the programs to be attached again", PATIENCE, || {
        Ok((bpf::attached(&cgroup)?.len() == attached && reattached(world)? >= 1).then_some(()))
    })?;
    Ok(())
}
