//! A directory of YAML files as configuration source: the embedded default.
//!
//! Reads `*.yaml` and `*.yml`, in the order of their names, not below. Kubernetes mounts a ConfigMap as links into a
//! directory that is swapped as a whole; the links lie in the watched directory, so the swap is seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{RecursiveMode, Watcher as _};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

pub use super::following::Loaded;
use super::{
    following::{Source, follow},
    index::Index,
};

/// Some filesystems and overlays report nothing, so the directory is read again at least this often.
const REREAD: Duration = Duration::from_secs(30);

/// Loads a directory once. Only an unreadable directory is an error; bad objects are in the report.
pub fn load(directory: &Path) -> io::Result<Loaded> {
    let mut files = Files { directory: directory.to_owned(), ..Files::default() };
    files.read()?;
    Ok(files.index.load())
}

/// Loads a directory, then again on every change (debounced), keeping the last good version of each object, until `stop`.
/// The first load is done when this returns.
pub fn watch(directory: &Path, stop: CancellationToken) -> io::Result<watch::Receiver<Loaded>> {
    let (changed, changes) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the files is an event too; an error may hide a change.
        if !matches!(event, Ok(notify::Event { kind: notify::EventKind::Access(_), .. })) {
            // Full means that a reload is due anyway.
            let _ = changed.try_send(());
        }
    })
    .map_err(io::Error::other)?;
    // Watch first, read second: a change in between is then read twice rather than missed.
    watcher.watch(directory, RecursiveMode::NonRecursive).map_err(io::Error::other)?;

    let mut files = Files { directory: directory.to_owned(), ..Files::default() };
    files.read()?;
    let (sender, receiver) = watch::channel(files.index.load());
    tokio::spawn(async move {
        let following = follow(files, ReceiverStream::new(changes), Some(REREAD), sender);
        stop.run_until_cancelled(following).await;
        drop(watcher);
    });
    Ok(receiver)
}

/// The index, and the bytes it was made from.
#[derive(Default)]
struct Files {
    directory: PathBuf,
    index: Index,
    seen: BTreeMap<String, Result<Vec<u8>, String>>,
}

impl Source for Files {
    type Change = ();

    fn take(&mut self, _: Vec<()>) -> Option<Loaded> {
        match self.read() {
            Ok(changed) => changed.then(|| self.index.load()),
            Err(error) => {
                tracing::error!(%error, directory = %self.directory.display(), "configuration cannot be read, the last one stays in force");
                None
            }
        }
    }
}

impl Files {
    /// Reads the directory into the index; whether anything changed.
    fn read(&mut self) -> io::Result<bool> {
        let mut names = BTreeSet::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            let is_yaml = Path::new(&name).extension().is_some_and(|e| e == "yaml" || e == "yml");
            // Hidden files are editors' and kubelet's own.
            if is_yaml && !name.starts_with('.') {
                names.insert(name);
            }
        }
        let mut changed = false;
        let mut gone = Vec::new();
        for name in &names {
            let path = self.directory.join(name);
            let read = match std::fs::metadata(&path) {
                Ok(found) if found.is_dir() => continue,
                // Reading a pipe or a device may never end.
                Ok(found) if !found.is_file() => Err("it is not a regular file".to_owned()),
                Ok(_) => std::fs::read(&path).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if read.is_err() && std::fs::symlink_metadata(&path).is_err() {
                // Removed since the directory was listed.
                gone.push(name.clone());
                continue;
            }
            if self.seen.get(name) == Some(&read) {
                continue;
            }
            changed = true;
            match &read {
                Ok(bytes) => match std::str::from_utf8(bytes) {
                    Ok(text) => self.index.apply(name, text),
                    Err(error) => self.index.apply_unreadable(name, &error.to_string()),
                },
                Err(error) => self.index.apply_unreadable(name, error),
            }
            self.seen.insert(name.clone(), read);
        }
        names.retain(|name| !gone.contains(name));
        let before = self.seen.len();
        self.seen.retain(|name, _| names.contains(name));
        if self.seen.len() != before {
            changed = true;
            self.index.retain(&names);
        }
        Ok(changed)
    }
}
