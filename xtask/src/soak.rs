//! `cargo xtask soak`: 1,000 new connections a second by one workload, for five minutes, through the released product. Too long
//! for `cargo xtask test`, which runs a short one.

use anyhow::{Result, bail};
use egret_tests::privileges;

use crate::{command, packages, terminal::Terminal, toolchain};

/// Runs the soak tests; what they measured is printed.
pub(crate) fn run() -> Result<()> {
    if let Some(why) = privileges::missing() {
        bail!("the soak cannot run here: {why}");
    }
    toolchain::ensure()?;
    packages::ensure(&mut Terminal::new())?;
    command::run(command::cargo().args([
        "build",
        "--release",
        "--package",
        "egret",
        "--package",
        "egret-tests",
    ]))?;
    let test = ["test", "--release", "--package", "egret-tests", "--test", "scenario", "soak"];
    command::run(command::cargo().args(test).args(["--", "--ignored", "--nocapture", "--test-threads=1"]))
}
