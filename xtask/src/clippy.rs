//! `cargo xtask clippy`: the workspace without the kernel programs on the host, then the kernel programs on their own
//! target, with the distribution's clippy, which fits the compiler that builds them.

use std::{path::Path, process::Command};

use crate::{command, toolchain};

const DRIVER: &str = "/usr/bin/clippy-driver";

pub(crate) fn run() -> anyhow::Result<()> {
    toolchain::ensure()?;
    command::run(command::cargo().args([
        "clippy",
        "--workspace",
        "--exclude",
        "agent-ebpf",
        "--all-targets",
        "--",
        "-Dwarnings",
    ]))?;
    // The host half: what is pure, and its tests.
    command::run(command::cargo().args([
        "clippy",
        "--package",
        "agent-ebpf",
        "--all-targets",
        "--",
        "-Dwarnings",
    ]))?;
    if !Path::new(DRIVER).exists() {
        report("the kernel programs are linted for the host only: install rust-web-clippy for the rest");
        return Ok(());
    }
    command::run(&mut on_bpf())
}

/// clippy for the BPF target. It runs as the compiler's wrapper, as `cargo clippy` does it; the distribution's `cargo-clippy`
/// would call whichever `cargo` comes first in PATH.
fn on_bpf() -> Command {
    let mut cargo = Command::new("/usr/bin/cargo");
    cargo
        .current_dir(command::workspace())
        .args(["check", "--package", "agent-ebpf", "--release", "--target", "bpfel-unknown-none"])
        .args(["-Z", "build-std=core", "--target-dir", "target/ebpf-clippy"])
        .env("RUSTC", "/usr/bin/rustc")
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC_WORKSPACE_WRAPPER", DRIVER)
        .env("CLIPPY_ARGS", "-Dwarnings")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO");
    cargo
}

#[expect(clippy::print_stderr, reason = "a note to whoever runs the task")]
fn report(text: &str) {
    eprintln!("{text}");
}
