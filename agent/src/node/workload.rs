//! A workload: what the agent knows of it, and the file that lets a restarted agent find it again.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    cgroup::{Cgroup, is_gone},
    netns,
    sockets::Existing,
};
use crate::{app::run_dir::RunDir, mesh::SpiffeId};

/// Who made a workload's cgroup, and why it is enrolled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// We made it, for `egret exec`: it ends with its last process, and its processes end with us.
    #[default]
    Exec,
    /// It was there, and an operator enrolled it (`egret enroll`).
    Hand,
    /// It was there, and this WorkloadBinding (`namespace/name`) selects it.
    Binding(String),
    /// It was there, and is the cgroup of this pod, of which this is asked.
    Pod {
        /// Namespace of the pod.
        namespace: String,
        /// Name of the pod.
        name: String,
        /// The uid in the name of its cgroup.
        uid: String,
    },
}

impl Origin {
    /// Whether the cgroup is somebody else's: we never remove it, and never end what runs in it.
    pub fn is_foreign(&self) -> bool {
        *self != Self::Exec
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exec => f.write_str("exec"),
            Self::Hand => f.write_str("by hand"),
            Self::Binding(name) => write!(f, "binding {name}"),
            Self::Pod { namespace, name, .. } => write!(f, "pod {namespace}/{name}"),
        }
    }
}

/// An enrolled workload. Also the JSON of its state file and of the admin socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Its number in this instance, from 1; the kernel programs know it by this.
    pub id: u32,
    /// Its identity.
    pub identity: SpiffeId,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// Inode of the cgroup directory.
    pub cgroup_inode: u64,
    /// The network namespace we made for it. Absent: it shares the agent's, or is foreign; then `node::presence` finds where
    /// its processes are.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub namespace: Option<PathBuf>,
    /// Where it comes from. State files of older versions do not say: they knew only one.
    #[serde(default)]
    pub origin: Origin,
    /// How connections are treated that are older than its enrolment.
    #[serde(default)]
    pub existing: Existing,
}

impl Workload {
    /// Makes cgroup and, where asked, network namespace of a new workload.
    pub(super) fn create(
        run_dir: &RunDir,
        parent: &Path,
        id: u32,
        identity: SpiffeId,
        own_namespace: bool,
        existing: Existing,
    ) -> io::Result<Self> {
        let name = format!("{}.{}.{id}", identity.namespace(), identity.service_account());
        let namespace = own_namespace.then(|| run_dir.namespaces().join(&name));
        if let Some(at) = &namespace {
            netns::create_isolated(at)?;
        }
        let cgroup = Cgroup::create(parent.join(&name)).inspect_err(|_| {
            // What this call made goes with it; the error that matters is the cgroup's.
            drop(namespace.as_deref().map(netns::delete));
        })?;
        Ok(Self {
            id,
            identity,
            cgroup: cgroup.path().to_owned(),
            cgroup_inode: cgroup.inode(),
            namespace,
            origin: Origin::Exec,
            existing,
        })
    }

    /// The name of its pod, if it is one.
    pub fn pod(&self) -> Option<&str> {
        match &self.origin {
            Origin::Pod { name, .. } => Some(name),
            Origin::Exec | Origin::Hand | Origin::Binding(_) => None,
        }
    }

    /// Its cgroup; fails when the directory is gone or was made anew.
    pub fn open_cgroup(&self) -> io::Result<Cgroup> {
        let cgroup = Cgroup::open(self.cgroup.clone())?;
        if cgroup.inode() == self.cgroup_inode {
            Ok(cgroup)
        } else {
            // The one that was enrolled is gone.
            Err(nix::Error::ENOENT.into())
        }
    }

    /// Whether its cgroup has been removed.
    pub(super) fn is_gone(&self) -> bool {
        self.open_cgroup().is_err_and(|e| is_gone(&e))
    }

    /// Writes the state file.
    pub(super) fn save(&self, run_dir: &RunDir) -> io::Result<()> {
        let file = self.file(run_dir);
        let fresh = file.with_extension("new");
        fs::write(&fresh, serde_json::to_vec_pretty(self)?)?;
        fs::rename(fresh, file)
    }

    /// Every workload with a state file, in no order.
    pub fn load_all(run_dir: &RunDir) -> io::Result<Vec<Self>> {
        let mut workloads = Vec::new();
        for entry in directory(&run_dir.workloads())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                let text = fs::read(&path)?;
                let workload = serde_json::from_slice(&text).map_err(|e| {
                    io::Error::new(io::ErrorKind::InvalidData, format!("state file {}: {e}", path.display()))
                })?;
                workloads.push(workload);
            }
        }
        Ok(workloads)
    }

    /// Removes cgroups and namespaces that have no state file: an earlier agent was killed while it made them, so no process
    /// was ever told to enter. Where one runs nevertheless, the state was lost: it stays, and is refused.
    pub(super) fn remove_unknown(run_dir: &RunDir, parent: &Path, known: &[Self]) -> io::Result<()> {
        for cgroup in directory(parent)? {
            let path = cgroup?.path();
            if path.is_dir() && known.iter().all(|workload| workload.cgroup != path) {
                let removed = Cgroup::open(path).and_then(|cgroup| cgroup.remove());
                if let Err(e) = removed {
                    tracing::error!("a workload without a state file stays, and is refused: {e}");
                }
            }
        }
        for namespace in directory(&run_dir.namespaces())? {
            let path = namespace?.path();
            if known.iter().all(|workload| workload.namespace.as_ref() != Some(&path)) {
                netns::delete(&path)?;
            }
        }
        Ok(())
    }

    /// Removes its cgroup; fails with `ResourceBusy` when a process is in it. Fine when it is gone, or made anew by others. A
    /// foreign one is left alone.
    pub(super) fn remove_cgroup(&self) -> io::Result<()> {
        if self.origin.is_foreign() {
            return Ok(());
        }
        match self.open_cgroup() {
            Ok(cgroup) => cgroup.remove(),
            Err(e) if is_gone(&e) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Removes the rest of what [`Self::create`] and [`Self::save`] made. Everything is tried; the first error is told.
    pub(super) fn remove(&self, run_dir: &RunDir) -> io::Result<()> {
        let namespace = self.namespace.as_deref().map_or(Ok(()), netns::delete);
        let file = match fs::remove_file(self.file(run_dir)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        };
        namespace.and(file)
    }

    fn file(&self, run_dir: &RunDir) -> PathBuf {
        run_dir.workloads().join(format!("{}.json", self.id))
    }
}

/// What is in a directory; nothing when it is not there.
fn directory(path: &Path) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>>> {
    match fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None.into_iter().flatten()),
        entries => Ok(Some(entries?).into_iter().flatten()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Origin, Workload};

    #[test]
    fn state_files_of_older_versions_are_read() {
        let old = r#"{"id":1,"identity":"spiffe://td/ns/default/sa/sleep","cgroup":"/c","cgroup_inode":7}"#;
        let workload: Workload = serde_json::from_str(old).unwrap();
        assert_eq!((workload.namespace.as_deref(), &workload.origin), (None, &Origin::Exec));
        let bound = Workload { origin: Origin::Binding("default/backup".to_owned()), ..workload };
        let text = serde_json::to_string(&bound).unwrap();
        assert!(text.contains(r#""origin":{"binding":"default/backup"}"#), "{text}");
        assert_eq!(serde_json::from_str::<Workload>(&text).unwrap(), bound);
        let [namespace, name, uid] = ["web", "sleep-1", "u"].map(str::to_owned);
        let pod = Workload { origin: Origin::Pod { namespace, name, uid }, ..bound };
        let text = serde_json::to_string(&pod).unwrap();
        let expected = r#""origin":{"pod":{"namespace":"web","name":"sleep-1","uid":"u"}}"#;
        assert!(text.contains(expected), "{text}");
        assert_eq!(serde_json::from_str::<Workload>(&text).unwrap(), pod);
    }
}
