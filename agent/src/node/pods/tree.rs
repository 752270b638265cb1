//! The cgroups of this node's pods: where they are, and whether one came or went. Called by `node::pods`; how they are called is in
//! [`super::cgroups`].

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use super::cgroups::{Entry, entry, holds_pods};
use crate::node::directories::{Directories, in_directory};

/// How far below the root the directory of all pods is looked for.
const DEPTH: u32 = 4;

/// The cgroups of pods, with a watch on the directories that they are in.
pub(super) struct Tree {
    root: PathBuf,
    /// Egret's own pod is in the same directory as all others of this kubelet. Another kubelet may run in one of them.
    own: String,
    /// The directory of all pods, once it is found.
    parent: Option<PathBuf>,
    watched: Directories,
}

/// What a look gave.
#[derive(Debug)]
pub(super) struct Found {
    /// The directory of all pods.
    pub(super) parent: PathBuf,
    /// By the uid in the name.
    pub(super) pods: BTreeMap<String, PathBuf>,
    /// Why some directory could not be watched.
    pub(super) unwatched: Option<io::Error>,
}

impl Tree {
    /// `own`: the uid of Egret's own pod.
    pub(super) fn new(root: PathBuf, own: String) -> io::Result<Self> {
        Ok(Self { root, own, parent: None, watched: Directories::new()? })
    }

    /// Waits until a directory came or went; for ever where nothing is watched.
    pub(super) async fn changed(tree: Option<&Self>) {
        Directories::changed(tree.map(|tree| &tree.watched)).await;
    }

    /// Looks for all of them. An error means that nothing is known.
    pub(super) fn scan(&mut self) -> io::Result<Found> {
        let parent = match self.parent.take().filter(|parent| parent.is_dir()) {
            Some(parent) => parent,
            None => self.find()?,
        };
        let parent = self.parent.insert(parent);
        let mut found = Found { parent: parent.clone(), pods: BTreeMap::new(), unwatched: None };
        self.look(&found.parent.clone(), Some(&mut found.unwatched), &mut found.pods)?;
        Ok(found)
    }

    /// The directory that has Egret's own pod in it.
    fn find(&self) -> io::Result<PathBuf> {
        let mut candidates = Vec::new();
        search(&self.root, DEPTH, &mut candidates)?;
        for candidate in &candidates {
            let mut pods = BTreeMap::new();
            self.look(candidate, None, &mut pods)?;
            if pods.contains_key(&self.own) {
                return Ok(candidate.clone());
            }
        }
        let where_else = match &candidates[..] {
            [] => format!("there is no directory of pods below {}", self.root.display()),
            some => {
                let some: Vec<_> = some.iter().map(|path| path.display().to_string()).collect();
                format!("it is not in {}", some.join(", nor in "))
            }
        };
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            format!(
                "the cgroup of Egret's own pod {} is not found, so the other pods are not either: {where_else}; mount the \
                 host's /sys/fs/cgroup into the agent's pod, as the Helm chart does, and leave the kubelet's cgroupsPerQOS on",
                self.own
            ),
        ))
    }

    /// Reads a directory of pods, and those of the classes in it; watches them if there is something to say why not.
    fn look(
        &self,
        directory: &Path,
        mut unwatched: Option<&mut Option<io::Error>>,
        pods: &mut BTreeMap<String, PathBuf>,
    ) -> io::Result<()> {
        if let Some(unwatched) = unwatched.as_deref_mut() {
            // Watch first, read second: none is missed that appears meanwhile.
            match self.watched.watch(directory) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                // More directories than fs.inotify.max_user_watches: it is read all the same.
                Err(e) => *unwatched = Some(e),
            }
        }
        let parent = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        for name in in_directory(directory)? {
            let below = directory.join(&name);
            match entry(parent, &name) {
                Entry::Pod(uid) => drop(pods.insert(uid, below)),
                Entry::Class => self.look(&below, unwatched.as_deref_mut(), pods)?,
                Entry::Other => {}
            }
        }
        Ok(())
    }
}

/// Directories that may have all pods in them, those near the root first.
fn search(directory: &Path, depth: u32, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let mut next = vec![directory.to_owned()];
    for _ in 0..depth {
        for directory in std::mem::take(&mut next) {
            for name in in_directory(&directory)? {
                let below = directory.join(&name);
                if holds_pods(&name) { found.push(below) } else { next.push(below) }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const OWN: &str = "11111111-1111-1111-1111-111111111111";
    const OTHER: &str = "22222222-2222-2222-2222-222222222222";

    fn tree(directories: &[String]) -> (tempfile::TempDir, Tree) {
        let root = tempfile::tempdir().unwrap();
        for directory in directories {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let tree = Tree::new(root.path().to_owned(), OWN.to_owned()).unwrap();
        (root, tree)
    }

    #[tokio::test]
    async fn the_pods_are_where_egrets_own_is() {
        let (root, mut tree) = tree(&[
            format!("docker/kubepods/pod{OTHER}"),
            format!("kubepods/pod{OTHER}/c1/kubepods/pod3"),
            format!("kubepods/burstable/pod{OWN}"),
            "kubepods/besteffort/other".to_owned(),
        ]);
        let found = tree.scan().unwrap();
        assert_eq!(found.parent, root.path().join("kubepods"));
        let uids: Vec<_> = found.pods.keys().map(String::as_str).collect();
        assert_eq!(uids, [OWN, OTHER]);
        assert_eq!(found.pods[OTHER], root.path().join(format!("kubepods/pod{OTHER}")));

        let new = root.path().join("kubepods/besteffort/pod4");
        fs::create_dir(&new).unwrap();
        Tree::changed(Some(&tree)).await;
        assert_eq!(tree.scan().unwrap().pods["4"], new);
    }

    #[tokio::test]
    async fn slices_below_a_root_of_their_own() {
        let sliced = OWN.replace('-', "_");
        let all = "kubelet.slice/kubelet-kubepods.slice";
        let class = format!("{all}/kubelet-kubepods-besteffort.slice");
        let (root, mut tree) = tree(&[format!("{class}/kubelet-kubepods-besteffort-pod{sliced}.slice")]);
        let found = tree.scan().unwrap();
        assert_eq!((found.parent, found.pods.len()), (root.path().join(all), 1));
    }

    #[tokio::test]
    async fn without_its_own_pod_nothing_is_taken_for_this_nodes() {
        let (_root, mut without) = tree(&[format!("kubepods/pod{OTHER}")]);
        let error = without.scan().unwrap_err().to_string();
        assert!(error.contains("it is not in ") && error.contains("/kubepods"), "{error}");
        let (_root, mut empty) = tree(&["system.slice".to_owned()]);
        assert!(empty.scan().unwrap_err().to_string().contains("no directory of pods"));
    }
}
