//! Programs of the distribution that the demo and the end-to-end tests use: found, installed as root, or named.

use std::{env, process::Command};

use anyhow::{Context as _, bail};

use crate::command;

/// Each program, and Debian's package that brings it.
const PROGRAMS: [(&str, &str); 3] = [("curl", "curl"), ("ip", "iproute2"), ("bpftool", "bpftool")];

/// Makes sure that the programs are there.
pub(crate) fn ensure() -> anyhow::Result<()> {
    let missing: Vec<&str> =
        PROGRAMS.iter().filter(|(program, _)| !installed(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("run `apt-get update && apt-get install {}` as root", missing.join(" "));
    if !nix::unistd::geteuid().is_root() || !installed("apt-get") {
        bail!("missing programs: {by_hand}");
    }
    progress(&format!("apt-get install {}", missing.join(" ")));
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
        apt
    };
    command::run_quietly(apt().arg("update")).with_context(|| by_hand.clone())?;
    command::run_quietly(apt().args(["install", "--yes", "--no-install-recommends"]).args(&missing)).context(by_hand)
}

/// Whether a program can be found. Debian keeps some in `/usr/sbin`, which is not in everybody's PATH.
pub(crate) fn installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]).any(|dir| dir.join(program).is_file())
}

#[expect(clippy::print_stderr, reason = "progress of the task")]
fn progress(text: &str) {
    eprintln!("{text}");
}
