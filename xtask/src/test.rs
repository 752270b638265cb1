//! `cargo xtask test`: everything that can tell whether Egret works on this machine, cheapest first.
//!
//! The kernel and end-to-end tests need root and eBPF. Where they are missing the rest runs, and what was left out is said,
//! with the reason; with `CI=true` that is a failure.

use std::{env, fs, process::Command, time::Instant};

use anyhow::bail;

use crate::{clippy, command, packages, toolchain};

/// Runs all tests.
pub(crate) fn run() -> anyhow::Result<()> {
    let began = Instant::now();
    toolchain::ensure()?;
    step("format");
    command::run(command::cargo().args(["fmt", "--all", "--check"]))?;
    step("lints, the kernel programs on their own target");
    clippy::run()?;
    step("unit and in-process tests");
    command::run(command::cargo().args(["test", "--workspace", "--exclude", "egret-tests"]))?;

    match privileged() {
        Ok(()) => {
            packages::ensure()?;
            step("the product, as it is released");
            command::run(command::cargo().args(["build", "--release", "--package", "egret", "--package", "egret-tests"]))?;
            step("kernel and end-to-end tests");
            // One at a time: they share this machine's cgroups, namespaces and network.
            let tests = ["test", "--release", "--package", "egret-tests", "--", "--test-threads=1"];
            command::run(command::cargo().args(tests))?;
        }
        Err(why) => {
            step(&format!("LEFT OUT: the kernel tests and the end-to-end tests, because {why}"));
            if env::var("CI").is_ok_and(|ci| ci == "true") {
                bail!("in CI nothing may be left out: {why}");
            }
        }
    }
    step(&format!("all passed in {} s", began.elapsed().as_secs()));
    Ok(())
}

/// Whether programs can be attached to cgroups here; else why not.
fn privileged() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("this is not root (run it with sudo for the rest)".into());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if !mounts.contains(" - cgroup2 ") {
        return Err("no cgroup v2 hierarchy is mounted".into());
    }
    // A probe, not a guess from versions: what may be loaded is the kernel's and the container's say.
    let mut probe = Command::new("bpftool");
    let answers = packages::installed("bpftool") && command::run_quietly(probe.args(["prog", "list"])).is_ok();
    if packages::installed("bpftool") && !answers {
        return Err("the bpf(2) system call is refused (a container without CAP_BPF?)".into());
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "progress of the task")]
fn step(what: &str) {
    eprintln!("\n── {what}");
}
