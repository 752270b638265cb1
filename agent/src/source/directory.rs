//! A directory of YAML files as configuration source: the embedded default.

use std::{io, path::Path, sync::Arc};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::report::Report;
use crate::mesh::Snapshot;

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
    let _ = directory;
    unimplemented!()
}

/// Loads a directory, then again on every change (debounced), keeping the last good version of each object, until `stop`.
/// The first load is done when this returns.
pub fn watch(directory: &Path, stop: CancellationToken) -> io::Result<watch::Receiver<Loaded>> {
    let _ = (directory, stop);
    unimplemented!()
}
