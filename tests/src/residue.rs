//! What an Egret instance has in the kernel and on disk while it runs, and what of it is still there afterwards.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;

use crate::{bpf, egret::Egret, wait};

/// What the kernel gets to unload programs that nothing refers to.
const UNLOAD: Duration = Duration::from_secs(5);

/// Everything by which an instance can be found out.
#[derive(Clone, Debug, Default)]
pub struct Footprint {
    programs: BTreeSet<u32>,
    paths: BTreeSet<PathBuf>,
}

impl Footprint {
    /// Nothing yet but the run directory.
    pub fn of(run_dir: &Path) -> Self {
        Self { paths: BTreeSet::from([run_dir.to_owned()]), ..Self::default() }
    }

    /// Adds what the instance has right now: cgroups and network namespaces of its workloads, the programs attached
    /// there, and pins in bpffs that carry the instance's name.
    pub fn record(&mut self, egret: &Egret) -> Result<()> {
        for cgroup in workload_cgroups(egret)? {
            self.programs.extend(bpf::attached(&cgroup)?.into_iter().map(|(_, program)| program));
            if let Some(parent) = cgroup.parent() {
                // The pins are in a directory of the same name.
                let pins = parent.file_name().map(|name| Path::new("/sys/fs/bpf/egret").join(name));
                self.paths.extend(pins.filter(|pins| pins.exists()));
                self.paths.insert(parent.to_owned());
            }
            self.paths.insert(cgroup);
        }
        Ok(())
    }

    /// The programs recorded.
    pub fn programs(&self) -> &BTreeSet<u32> {
        &self.programs
    }

    /// What of it is still there, one sentence each.
    pub fn left(&self) -> Result<Vec<String>> {
        // The kernel unloads a program some time after the last reference to it is gone.
        let unloaded = || self.programs.iter().all(|program| matches!(bpf::is_loaded(*program), Ok(false)));
        wait::settled(UNLOAD, unloaded);
        let mut left = Vec::new();
        for path in &self.paths {
            // Not `exists`: an unreadable path is there.
            if fs::symlink_metadata(path).is_ok() {
                left.push(format!("{} is still there", path.display()));
            }
        }
        for program in &self.programs {
            if bpf::is_loaded(*program)? {
                left.push(format!("BPF program {program} is still loaded"));
            }
        }
        Ok(left)
    }
}

/// The cgroups of the workloads there are, as the status names them.
pub fn workload_cgroups(egret: &Egret) -> Result<Vec<PathBuf>> {
    let status = egret.status()?;
    let workloads = status["workloads"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(workloads.iter().filter_map(|workload| workload["cgroup"].as_str().map(PathBuf::from)).collect())
}
