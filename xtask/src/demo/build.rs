//! Builds the binaries, with cargo's own progress on the terminal.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use egret_tests::wait;

use crate::terminal::Terminal;

/// What the demo runs.
pub(super) struct Binaries {
    /// The product.
    pub(super) egret: PathBuf,
    /// The external service.
    pub(super) external: PathBuf,
}

/// The root of the workspace.
pub(super) fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Builds both. With nothing to do this takes well under a second.
pub(super) fn all(terminal: &mut Terminal) -> Result<Binaries> {
    let started = Instant::now();
    terminal.busy("cargo build --release -p egret (the first time takes some minutes)")?;
    // The same command as people type: whoever has built Egret finds it built.
    cargo(&["build", "--release", "-p", "egret"])?;
    cargo(&["build", "--release", "-p", "egret-tests", "--bin", "egret-external"])?;
    terminal.done("built", &format!("{:.1} s", started.elapsed().as_secs_f32()))?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    let release = workspace().join(target).join("release");
    Ok(Binaries { egret: release.join("egret"), external: release.join("egret-external") })
}

fn cargo(arguments: &[&str]) -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let shown = format!("cargo {}", arguments.join(" "));
    run(Command::new(cargo).args(arguments).current_dir(workspace()), &shown)
}

/// Runs a command on our terminal, and ends it when we are interrupted.
fn run(command: &mut Command, shown: &str) -> Result<()> {
    let mut child = command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot run `{shown}`"))?;
    match wait::until(shown, Duration::from_hours(1), || Ok(child.try_wait()?)) {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => bail!("`{shown}` failed ({status})"),
        Err(error) => {
            // It may have ended just now; either way it is not running after this.
            let _ = child.kill();
            child.wait().with_context(|| format!("cannot wait for `{shown}`"))?;
            Err(error)
        }
    }
}
