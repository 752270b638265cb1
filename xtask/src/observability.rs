//! `cargo xtask observability`: rules and their tests in `deploy/observability`, by Prometheus' own tool. That they speak of metrics
//! that exist is a unit test of `egret` (`admin::metrics`); that what `egret up` exposes can be read, an end-to-end test.

use std::process::Command;

use anyhow::Result;

use crate::{command, packages, terminal::Terminal};

/// Checks the rules and tries them. Fails, with what to install, where `promtool` is not to be had.
pub(crate) fn run(terminal: &mut Terminal) -> Result<()> {
    let promtool = packages::PROMTOOL.get(terminal)?;
    let place = command::workspace().join("deploy/observability").canonicalize()?;
    for arguments in [
        ["check", "rules", "--lint=all", "--lint-fatal", "rules.yaml"].as_slice(),
        &["test", "rules", "rules.test.yaml"],
    ] {
        command::run(Command::new(&promtool).args(arguments).current_dir(&place))?;
    }
    Ok(())
}
