//! What agent, gateway and CA have in common as processes: pid file, admin socket, configuration.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::Context as _;
use tokio::{net::UnixListener, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{Settings, run_dir::RunDir};
use crate::source::{
    directory::{self, Loaded},
    report::Severity,
};

/// Writes the pid file of `role`.
pub(super) fn announce(run_dir: &RunDir, role: &str) -> anyhow::Result<()> {
    let file = run_dir.pid_file(role);
    fs::write(&file, format!("{}\n", std::process::id()))
        .with_context(|| format!("pid file {}", file.display()))
}

/// Binds a Unix socket for this user only; one left by a process that was killed is replaced.
pub(super) fn bind(socket: &Path) -> anyhow::Result<UnixListener> {
    let bind = || {
        match fs::remove_file(socket) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = UnixListener::bind(socket)?;
        fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bind().with_context(|| format!("socket {}", socket.display()))
}

/// Starts to watch the configuration.
pub(super) fn configuration(
    settings: &Settings,
    stop: &CancellationToken,
) -> anyhow::Result<watch::Receiver<Loaded>> {
    directory::watch(&settings.config, stop.clone())
        .with_context(|| format!("configuration directory {}", settings.config.display()))
}

/// Logs what a load found, once per load. One role of an instance does.
pub(super) fn log_problems(loaded: &Loaded) {
    tracing::info!(
        version = loaded.snapshot.version,
        objects = loaded.report.objects,
        "configuration in force"
    );
    for problem in &loaded.report.problems {
        match problem.severity {
            Severity::Error => tracing::error!("{problem}"),
            Severity::Warning => tracing::warn!("{problem}"),
        }
    }
}
