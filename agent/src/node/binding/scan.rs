//! The tree of cgroups as bindings see it: which cgroups they select, and whether something came or went. Only what a selector can
//! lead to is read and watched.

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{mesh::WorkloadBinding, node::cgroup::is_gone};

/// Directories under a root, with a watch on each that was looked through.
pub(super) struct Tree {
    root: PathBuf,
    /// Egret's own cgroups, which no binding selects.
    except: PathBuf,
    inotify: Inotify,
    /// The same descriptor, for waiting.
    events: AsyncFd<OwnedFd>,
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
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let copy = std::os::fd::AsFd::as_fd(&inotify).try_clone_to_owned()?;
        // SAFETY: the AsyncFd owns the descriptor.
        let events = unsafe { AsyncFd::register_with_interest(copy, Interest::READABLE) }?;
        Ok(Self { root, except, inotify, events })
    }

    /// Waits until a directory came or went; for ever where nothing is watched.
    pub(super) async fn changed(tree: Option<&Self>) {
        let Some(tree) = tree else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = tree.events.readable().await else { return std::future::pending().await };
            // All at once, also that some were lost: the tree is looked through anyway.
            if tree.inotify.read_events().is_ok_and(|events| !events.is_empty()) {
                return;
            }
            ready.clear_ready();
        }
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
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
        match self.inotify.add_watch(directory, flags) {
            Ok(_) => {}
            Err(nix::Error::ENOENT) => return Ok(()),
            // More directories than fs.inotify.max_user_watches: it is read all the same.
            Err(e) => watched.unwatched = Some(e.into()),
        }
        for name in directories(directory)? {
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

/// The directories in a directory; none when it is gone. A name that is no text is selected by nobody.
fn directories(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let mut read = || {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if let (true, Ok(name)) = (entry.file_type()?.is_dir(), entry.file_name().into_string()) {
                names.push(name);
            }
        }
        Ok(())
    };
    match read() {
        Err(e) if !is_gone(&e) => {
            Err(io::Error::new(e.kind(), format!("cgroup {}: {e}", directory.display())))
        }
        _ => Ok(names),
    }
}
