//! Takes away everything an instance made on the machine, and nothing else's: `egret up` at its end, `egret agent --cleanup`
//! after a crash.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::timeout;

use super::run_dir::RunDir;
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

/// Ends what still runs as a workload, then takes away programs, cgroups, namespaces and the run directory, in this order:
/// nothing that was captured is ever let out.
pub async fn run(run_dir: &RunDir) -> anyhow::Result<()> {
    let instance = run_dir.instance();
    let workloads = Workload::load_all(run_dir).context("state of the workloads")?;
    for workload in &workloads {
        if let Ok(cgroup) = workload.open_cgroup() {
            cgroup.kill().with_context(|| format!("processes in {}", cgroup.path().display()))?;
            timeout(KILL_DEADLINE, cgroup.wait_populated(false))
                .await
                .with_context(|| format!("processes in {} do not end", cgroup.path().display()))??;
        }
    }
    datapath::cleanup(&pin_directory(&instance)).context("pinned programs")?;
    for workload in &workloads {
        if let Ok(cgroup) = workload.open_cgroup() {
            cgroup.remove()?;
        }
        if let Some(namespace) = &workload.namespace {
            netns::delete(namespace).with_context(|| format!("network namespace {}", namespace.display()))?;
        }
    }
    Hierarchy::find()?.remove_instance(&instance)?;
    match fs::remove_dir_all(run_dir.path()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("run directory {}", run_dir.path().display()))
        }
        _ => Ok(()),
    }
}
