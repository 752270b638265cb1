//! `cargo xtask test`: everything that can tell whether Egret works on this machine, cheapest first.
//!
//! The kernel, end-to-end and cluster tests need root and eBPF, the cluster tests Go too. Where they are missing the rest
//! runs, and what was left out is said, with the reason; with `CI=true` that is a failure.

use std::env;

use anyhow::{Result, bail};
use egret_tests::privileges;

use crate::{
    clippy, cluster, command,
    image::{self, Profile},
    manifests, observability, packages, profile,
    terminal::Terminal,
    tidy, toolchain,
};

/// Runs all tests.
pub(crate) fn run() -> Result<()> {
    let mut terminal = Terminal::new().timed();
    toolchain::ensure()?;
    terminal.section("Format and rules")?;
    cargo(&["fmt", "--all", "--check"])?;
    tidy::run()?;
    match profile::tool() {
        Ok(tool) => profile::check(&tool)?,
        Err(why) => {
            left_out(&mut terminal, "whether the profile for releases can be read", &why.to_string())?;
        }
    }
    terminal.section("Lints, the kernel programs on their own target")?;
    clippy::run()?;
    terminal.section("Unit and in-process tests")?;
    cargo(&["test", "--workspace", "--exclude", "egret-tests"])?;

    let no_cluster = cluster::missing();
    if no_cluster.is_none() {
        terminal.section("What the test cluster is made of, and the chart is checked with")?;
        cluster::build(&mut terminal)?;
    }
    if let Some(why) = manifests::missing() {
        left_out(&mut terminal, "chart and manifests", &why)?;
    } else {
        terminal.section("Chart and manifests")?;
        manifests::check_all()?;
    }

    terminal.section("Rules for Prometheus")?;
    match observability::run(&mut terminal) {
        Err(missing) if !packages::PROMTOOL.is_to_be_had() => {
            left_out(&mut terminal, "the rules for Prometheus", &missing.to_string())?;
        }
        checked => checked?,
    }

    if let Some(why) = privileges::missing() {
        left_out(&mut terminal, "the kernel tests, the end-to-end tests and the cluster tests", &why)?;
    } else {
        packages::ensure(&mut terminal)?;
        packages::NGINX.get(&mut terminal)?;
        // Without it the tests of the page say so.
        if !packages::installed("chromium")
            && let Err(missing) = packages::ensure_for_tests(&mut terminal, &["chromium"])
        {
            left_out(&mut terminal, "the page of egret ui in a browser", &missing.to_string())?;
        }
        terminal.section("The product, optimised")?;
        // The same that is in the image, and the tests with the same arguments: the library is compiled once.
        let egret = image::compile(Profile::Tested)?.canonicalize()?;
        terminal.section("Kernel and end-to-end tests")?;
        // One at a time: they share this machine's cgroups, namespaces and ports.
        let mut tests = image::cargo("test", Profile::Tested);
        tests.args(["--package", "egret-tests", "--", "--test-threads=1"]).env("EGRET_BIN", egret);
        command::run(&mut tests)?;
        terminal.section("On a real Kubernetes of two nodes")?;
        match no_cluster {
            None => cluster::test(&mut terminal, None)?,
            Some(why) => left_out(&mut terminal, "the cluster tests", &why)?,
        }
    }
    terminal.good(&format!("All passed, in {} s.", terminal.seconds()))
}

/// Says that tests were left out, which in CI is an error.
fn left_out(terminal: &mut Terminal, what: &str, why: &str) -> Result<()> {
    terminal.bad(&format!("Left out: {what}, because of this: {why}"))?;
    if env::var_os("CI").is_some_and(|ci| ci == "true") {
        bail!("in CI nothing may be left out");
    }
    Ok(())
}

fn cargo(arguments: &[&str]) -> Result<()> {
    command::run(command::cargo().args(arguments))
}
