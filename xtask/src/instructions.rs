//! `cargo xtask instructions`: how many instructions a decision of the engines takes, and how many allocations, in a small and in a
//! large configuration. Counted under valgrind, so that the same program gives the same numbers on a busy machine, too.
//!
//! What is decided is in `agent/benches/micro`. Fails where a large configuration costs more than a small one; how much a decision
//! takes at all depends on compiler and machine, and is only printed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{command, image, packages, terminal::Terminal, toolchain};

/// Decisions that are counted, after one that is not.
const COUNT: u64 = 200;
/// How many times the instructions of a small configuration a large one may take.
const MOST: f64 = 1.05;
/// What makes the decisions.
const COUNTED: &str = "*instructions::measured*";

/// What a decision takes.
struct Taken {
    instructions: u64,
    allocations: f64,
}

/// Counts and prints.
pub(crate) fn run() -> Result<()> {
    ensure!(packages::installed("valgrind"), "valgrind is not on this machine: install it first");
    toolchain::ensure()?;
    let program = build()?;
    let list = output(Command::new(&program).arg("instructions"))?;
    let mut kinds: Vec<&str> = list.lines().filter_map(|line| line.split(' ').next()).collect();
    kinds.dedup();
    ensure!(!kinds.is_empty(), "{} has nothing to count", program.display());

    let mut terminal = Terminal::new();
    terminal.section("Instructions per decision, and allocations")?;
    let mut grown = Vec::new();
    for kind in kinds {
        let [small, large] = ["small", "large"].map(|size| count(&program, kind, size));
        let (small, large) = (small?, large?);
        let ratio = large.instructions as f64 / small.instructions as f64;
        let line = format!(
            "{kind:<26} {:>7} small {:>7} large {ratio:>6.3}   {} {} allocations",
            small.instructions, large.instructions, small.allocations, large.allocations
        );
        if ratio > MOST || large.allocations > small.allocations {
            terminal.bad(&line)?;
            grown.push(kind);
        } else {
            terminal.good(&line)?;
        }
    }
    if grown.is_empty() { Ok(()) } else { bail!("costs more in a large configuration: {}", grown.join(", ")) }
}

/// Builds the program as tests are built: quicker than a release, and hardly different.
fn build() -> Result<PathBuf> {
    let build = ["bench", "--profile", "tested", "--package", "egret", "--bench", "micro", "--no-run"];
    let messages = output(command::cargo().args(build).args(["--message-format", "json"]))?;
    let executable = |line: &str| {
        let message: Value = serde_json::from_str(line).ok()?;
        (message["target"]["name"] == "micro").then(|| message["executable"].as_str().map(PathBuf::from))?
    };
    messages.lines().find_map(executable).context("cargo has not said where the program is")
}

fn count(program: &Path, kind: &str, size: &str) -> Result<Taken> {
    let counts = image::target_directory().join(format!("callgrind.{kind}.{size}"));
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--quiet", "--tool=callgrind", "--collect-atstart=no"]);
    valgrind.arg(format!("--toggle-collect={COUNTED}"));
    valgrind.arg(format!("--callgrind-out-file={}", counts.display())).arg(program);
    let allocations = output(valgrind.args(["instructions", kind, size, &COUNT.to_string()]))?;
    let text = fs::read_to_string(&counts).with_context(|| counts.display().to_string())?;
    Ok(Taken {
        instructions: total(&text).context("valgrind has counted nothing")? / COUNT,
        allocations: allocations.trim().parse::<f64>().context("no number of allocations")? / COUNT as f64,
    })
}

/// All instructions in a file of callgrind's.
fn total(text: &str) -> Option<u64> {
    let found = text.lines().find_map(|line| {
        let rest = line.strip_prefix("summary:").or_else(|| line.strip_prefix("totals:"))?;
        rest.trim().parse().ok()
    });
    found.filter(|instructions| *instructions > 0)
}

/// What a command prints; its errors are shown.
fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| command.get_program().display().to_string())?;
    ensure!(output.status.success(), "{} failed: {}", command.get_program().display(), output.status);
    String::from_utf8(output.stdout).context("not text")
}

#[cfg(test)]
mod tests {
    use super::total;

    #[test]
    fn reads_what_callgrind_has_counted() {
        let text = |last: &str| format!("# callgrind format\nevents: Ir\nfn=(1) main\n3 5\n{last}\n");
        assert_eq!(total(&text("summary: 1234")), Some(1234));
        assert_eq!(total(&text("totals: 12")), Some(12));
        assert_eq!(total(&text("totals: 0")), None, "the function was not found");
        assert_eq!(total(&text("")), None);
    }
}
