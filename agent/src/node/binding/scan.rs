//! The tree of cgroups as bindings see it: which cgroups they select, and whether something came or went. Only what a selector can
//! lead to is read and watched.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    mesh::WorkloadBinding,
    node::directories::{Directories, in_directory},
};

/// Directories under a root, with a watch on each that was looked through.
pub(super) struct Tree {
    root: PathBuf,
    /// Egret's own cgroups, which no binding selects.
    except: PathBuf,
    watched: Directories,
}

/// What a look through the tree gave.
pub(super) struct Watched<'b> {
    /// The cgroups selected, each with the bindings that do, in their order.
    pub(super) selected: BTreeMap<PathBuf, Vec<&'b WorkloadBinding>>,
    /// Why some directory could not be watched.
    pub(super) unwatched: Option<io::Error>,
}

impl Tree {
    pub(super) fn new(root: PathBuf, except: PathBuf) -> io::Result<Self> {
        Ok(Self { root, except, watched: Directories::new()? })
    }

    /// Waits until a directory came or went; for ever where nothing is watched.
    pub(super) async fn changed(tree: Option<&Self>) {
        Directories::changed(tree.map(|tree| &tree.watched)).await;
    }

    /// Looks through the tree, from the root. An error means that nothing is known.
    pub(super) fn scan<'b>(&self, bindings: &'b [Arc<WorkloadBinding>]) -> io::Result<Watched<'b>> {
        let mut watched = Watched { selected: BTreeMap::new(), unwatched: None };
        let bindings: Vec<_> = bindings.iter().map(|binding| (&**binding, false)).collect();
        self.descend(&self.root, &mut Vec::new(), &bindings, &mut watched)?;
        Ok(watched)
    }

    /// `bindings`: with each, whether it has got a cgroup further up, which covers all below.
    fn descend<'b>(
        &self,
        directory: &Path,
        path: &mut Vec<String>,
        bindings: &[(&'b WorkloadBinding, bool)],
        watched: &mut Watched<'b>,
    ) -> io::Result<()> {
        let parts: Vec<_> = path.iter().map(String::as_str).collect();
        let open = |(binding, covered): &&(&'b WorkloadBinding, bool)| !covered && binding.selects(&parts);
        let selected: Vec<_> = bindings.iter().filter(open).map(|(binding, _)| *binding).collect();
        let winner = selected.first().map(|binding| binding.object.clone());
        if !selected.is_empty() {
            watched.selected.insert(directory.to_owned(), selected);
        }
        let covered = |binding: &WorkloadBinding| winner.as_ref() == Some(&binding.object);
        let bindings: Vec<_> =
            bindings.iter().map(|(binding, was)| (*binding, *was || covered(binding))).collect();
        if !bindings.iter().any(|(binding, covered)| !covered && binding.leads_below(&parts)) {
            return Ok(());
        }
        // Watch first, read second: none is missed that appears meanwhile.
        match self.watched.watch(directory) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            // More directories than fs.inotify.max_user_watches: it is read all the same.
            Err(e) => watched.unwatched = Some(e),
        }
        for name in in_directory(directory)? {
            let below = directory.join(&name);
            if below != self.except {
                path.push(name);
                self.descend(&below, path, &bindings, watched)?;
                path.pop();
            }
        }
        Ok(())
    }
}
