//! Directories that are watched for others that come and go in them. Used by those who look through the tree of cgroups; what was
//! missed does not matter to them, since they look at everything.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::{Interest, unix::AsyncFd};

/// Watched directories.
pub(super) struct Directories {
    inotify: Inotify,
    /// The same descriptor, for waiting.
    events: AsyncFd<OwnedFd>,
}

impl Directories {
    pub(super) fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let copy = inotify.as_fd().try_clone_to_owned()?;
        // SAFETY: the AsyncFd owns the descriptor.
        let events = unsafe { AsyncFd::register_with_interest(copy, Interest::READABLE) }?;
        Ok(Self { inotify, events })
    }

    /// Watches one more; once more is once. To be called before it is read: none is missed that appears meanwhile.
    pub(super) fn watch(&self, directory: &Path) -> io::Result<()> {
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_ONLYDIR;
        self.inotify.add_watch(directory, flags)?;
        Ok(())
    }

    /// Waits until a directory came or went; for ever where nothing is watched.
    pub(super) async fn changed(watched: Option<&Self>) {
        let Some(watched) = watched else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = watched.events.readable().await else { return std::future::pending().await };
            // All at once, also that some were lost.
            if watched.inotify.read_events().is_ok_and(|events| !events.is_empty()) {
                return;
            }
            ready.clear_ready();
        }
    }
}

/// The directories in a directory; none when it is gone. Names that are no text are left out.
pub(super) fn in_directory(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let mut read = || {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if let (true, Ok(name)) = (entry.file_type()?.is_dir(), entry.file_name().into_string()) {
                names.push(name);
            }
        }
        Ok(())
    };
    match read() {
        Err(e) if !super::cgroup::is_gone(&e) => {
            Err(io::Error::new(e.kind(), format!("cgroup {}: {e}", directory.display())))
        }
        _ => Ok(names),
    }
}
