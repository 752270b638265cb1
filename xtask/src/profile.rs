//! `cargo xtask profile`: counts which code runs, for the compiler of releases to lay out and optimise by (profile-guided optimisation).
//!
//! A binary that counts carries the benchmark's load and the end-to-end tests, which take the ways that the benchmark does not. What comes of it
//! is kept in the repository, so that a release needs no load to be built: code that has changed since is compiled as if nothing were known of it.
//! To be run again when what requests pass through has changed a lot, or the compiler has.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use egret_tests::{privileges, signals};

use crate::{
    bench, command,
    image::{self, Profile},
    packages,
    terminal::Terminal,
    toolchain,
};

/// Runs it.
pub(crate) fn run() -> Result<()> {
    if let Some(why) = privileges::missing() {
        bail!("nothing can be counted here: {why}");
    }
    signals::handle()?;
    let tool = tool()?;
    let mut terminal = Terminal::new();
    packages::ensure(&mut terminal)?;
    let nginx = bench::nginx(&mut terminal)?;
    terminal.section("The product, counting")?;
    let product = image::compile(Profile::Profiled)?.canonicalize()?;

    let directory = image::target_directory().join("profiled");
    let raw = directory.join("raw");
    if raw.exists() {
        fs::remove_dir_all(&raw).with_context(|| raw.display().to_string())?;
    }
    fs::create_dir_all(&raw).with_context(|| raw.display().to_string())?;
    let raw = raw.canonicalize()?;
    // One file for all processes, which each adds to at its end: the tests start hundreds.
    let into = raw.join("%m.profraw");

    let mut load = bench::program()?;
    terminal.section("The benchmark's load")?;
    load.arg("--egret").arg(&product).arg("--nginx").arg(nginx).arg("--output").arg(directory.join("bench"));
    load.args([
        "--quick",
        "--rounds=1",
        "--paths=egret,egret_1000_policies_10000_entries",
        "--phases=closed,open,fresh,bulk",
    ]);
    command::run(load.env("LLVM_PROFILE_FILE", &into))?;

    terminal.section("The end-to-end tests")?;
    let mut tests = image::cargo("test", Profile::Tested);
    tests.args(["--package", "egret-tests", "--test", "scenario", "--", "--test-threads=1"]);
    command::run(tests.env("EGRET_BIN", &product).env("LLVM_PROFILE_FILE", &into))?;

    merge(&tool, &raw)?;
    fs::remove_dir_all(&raw).with_context(|| raw.display().to_string())?;
    let size = fs::metadata(image::counts())?.len();
    terminal.good(&format!("agent/egret.profdata: {} KiB", size >> 10))
}

/// Adds up what all the processes have counted.
fn merge(tool: &Path, raw: &Path) -> Result<()> {
    let counted = fs::read_dir(raw)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    if counted.is_empty() {
        bail!("nothing was counted: {} is empty", raw.display());
    }
    command::run(
        Command::new(tool).args(["merge", "--sparse", "--output"]).arg(image::counts()).args(counted),
    )
}

/// Checks that what is in the repository can be read: the compiler only warns of what it cannot, and is slow by it.
pub(crate) fn check(tool: &Path) -> Result<()> {
    command::run_quietly(Command::new(tool).arg("show").arg(image::counts()))
        .context("run `cargo xtask profile`, or get agent/egret.profdata from the repository again")
}

/// The program that reads and writes LLVM's profiles.
pub(crate) fn tool() -> Result<PathBuf> {
    let named = env::var_os("LLVM_PROFDATA").map(PathBuf::from);
    let tool = named.unwrap_or_else(|| Path::new(toolchain::LLVM).join("bin/llvm-profdata"));
    if !tool.is_file() {
        bail!(
            "no {}: run `apt-get install llvm-22` as root, or name a llvm-profdata in LLVM_PROFDATA",
            tool.display()
        );
    }
    Ok(tool)
}
