//! A directory of YAML files as configuration source: the embedded default.
//!
//! Reads `*.yaml` and `*.yml`, in the order of their names, not below. Kubernetes mounts a ConfigMap as links into a
//! directory that is swapped as a whole; the links lie in the watched directory, so the swap is seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecursiveMode, Watcher as _};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{index::Index, report::Report};
use crate::mesh::Snapshot;

/// Changes come in bursts; a burst ends when nothing happens for this long.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// Some filesystems and overlays report nothing, so the directory is read again at least this often.
const REREAD: Duration = Duration::from_secs(30);

/// One load: the configuration in force and what was found.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The configuration.
    pub snapshot: Arc<Snapshot>,
    /// What was found.
    pub report: Arc<Report>,
}

/// Loads a directory once. Only an unreadable directory is an error; bad objects are in the report.
pub fn load(directory: &Path) -> io::Result<Loaded> {
    let mut source = Source::default();
    source.read(directory)?;
    Ok(source.index.load())
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

    let mut source = Source::default();
    source.read(directory)?;
    let (sender, receiver) = watch::channel(source.index.load());
    let directory = directory.to_owned();
    tokio::spawn(async move {
        let ended = stop.cancelled_owned();
        tokio::pin!(ended);
        tokio::select! {
            () = &mut ended => {}
            () = follow(directory, source, changes, sender) => {}
        }
        drop(watcher);
    });
    Ok(receiver)
}

/// Reloads until nobody listens.
async fn follow(
    directory: PathBuf,
    mut source: Source,
    mut changes: mpsc::Receiver<()>,
    sender: watch::Sender<Loaded>,
) {
    loop {
        tokio::select! {
            () = sender.closed() => return,
            _ = tokio::time::timeout(REREAD, changes.recv()) => {}
        }
        while let Ok(Some(())) = tokio::time::timeout(DEBOUNCE, changes.recv()).await {}
        let path = directory.clone();
        // Files and compilation block, and this may be the thread that serves traffic.
        let Ok((returned, loaded)) = tokio::task::spawn_blocking(move || {
            let loaded = source.read(&path).map(|changed| changed.then(|| source.index.load()));
            (source, loaded)
        })
        .await
        else {
            tracing::error!(
                "the configuration reader failed, the last configuration stays in force for good"
            );
            return;
        };
        source = returned;
        match loaded {
            Ok(None) => {}
            Ok(Some(loaded)) => {
                tracing::info!(
                    version = loaded.snapshot.version,
                    objects = loaded.report.objects,
                    problems = loaded.report.problems.len(),
                    "configuration reloaded"
                );
                sender.send_replace(loaded);
            }
            Err(error) => {
                tracing::error!(%error, directory = %directory.display(), "configuration cannot be read, the last one stays in force");
            }
        }
    }
}

/// The index, and the bytes it was made from.
#[derive(Default)]
struct Source {
    index: Index,
    seen: BTreeMap<String, Result<Vec<u8>, String>>,
}

impl Source {
    /// Reads the directory into the index; whether anything changed.
    fn read(&mut self, directory: &Path) -> io::Result<bool> {
        let mut names = BTreeSet::new();
        for entry in std::fs::read_dir(directory)? {
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
            let path = directory.join(name);
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
