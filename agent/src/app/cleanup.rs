//! Takes away everything an instance made on the machine, and nothing else's: `egret up` at its end, `egret agent --cleanup`
//! after a crash.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::time::timeout;

use super::{role, run_dir::RunDir};
use crate::{
    datapath,
    node::{cgroup::Hierarchy, netns, workload::Workload},
};

/// Where bpffs is mounted on every systemd host; mounted there where it is not.
pub(super) const BPFFS: &str = "/sys/fs/bpf";

/// How long killed processes may take to go.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// Where the links and maps of an instance are pinned.
pub(crate) fn pin_directory(instance: &str) -> PathBuf {
    Path::new(BPFFS).join("egret").join(instance)
}

/// `egret agent --cleanup`: the same for an instance that was killed. Fails when it is alive. Returns the foreign workloads that
/// were released.
pub async fn after_crash(run_dir: &RunDir) -> anyhow::Result<Vec<Workload>> {
    if !nix::unistd::geteuid().is_root() {
        bail!("what an instance left belongs to root: run it with sudo");
    }
    let _announced = role::announce(run_dir, "supervisor")?;
    run(run_dir).await
}

/// Ends what still runs as a workload of our own making, then takes away cgroups, programs, namespaces and the run directory, in
/// this order: nothing of it is ever let out. Goes by what is there, not by state files, which may be lost.
///
/// Foreign workloads are not ours to end. They go on, and what they dial from then on is direct: whoever ends Egret on purpose
/// wants the machine back as it was. They are returned, to be named.
pub(super) async fn run(run_dir: &RunDir) -> anyhow::Result<Vec<Workload>> {
    // For naming only: what is attached to them is found by its pins.
    let mut released = Workload::load_all(run_dir).unwrap_or_default();
    released.retain(|workload| workload.origin.is_foreign() && workload.open_cgroup().is_ok());
    off_the_machine(run_dir).await?;
    match fs::remove_dir_all(run_dir.path()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("run directory {}", run_dir.path().display()))
        }
        _ => Ok(released),
    }
}

/// The same by an agent that lives on and is still asked: its sockets and its pid file stay, as does the run directory, which is
/// mounted.
pub(super) async fn of_node(run_dir: &RunDir) -> anyhow::Result<()> {
    off_the_machine(run_dir).await?;
    let state = [fs::remove_dir_all(run_dir.workloads()), fs::remove_dir_all(run_dir.namespaces())];
    for removed in state.into_iter().chain([fs::remove_file(run_dir.synthetic())]) {
        match removed {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("state in {}", run_dir.path().display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Everything outside the run directory.
async fn off_the_machine(run_dir: &RunDir) -> anyhow::Result<()> {
    let instance = run_dir.instance();
    timeout(KILL_DEADLINE, Hierarchy::find()?.end_instance(&instance))
        .await
        .context("the processes of the workloads do not end; they stay captured")?
        .context("the workloads cannot be ended; they stay captured")?;
    let pins = pin_directory(&instance);
    datapath::cleanup(&pins).context("pinned programs")?;
    // Empty, unless another instance is on this machine.
    if let Some(parent) = pins.parent() {
        drop(fs::remove_dir(parent));
    }
    remove_namespaces(run_dir)
}

fn remove_namespaces(run_dir: &RunDir) -> anyhow::Result<()> {
    let directory = run_dir.namespaces();
    let entries = match fs::read_dir(&directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("network namespaces in {}", directory.display()))?,
    };
    for entry in entries {
        let namespace = entry?.path();
        netns::delete(&namespace).with_context(|| format!("network namespace {}", namespace.display()))?;
    }
    Ok(())
}
