//! CPU time of an instance's processes: the kernel's clock of each (clock_getcpuclockid(3)), all of its threads, user and system.

use std::time::Duration;

use anyhow::{Context as _, Result};
use egret_tests::egret::{Egret, Part};
use nix::time::clock_getcpuclockid;

/// Of all processes of an instance so far.
pub(crate) fn time(egret: &Egret) -> Result<Duration> {
    Part::ALL
        .into_iter()
        .map(|part| {
            let clock = clock_getcpuclockid(egret.pid(part)?);
            let now = clock.and_then(nix::time::ClockId::now);
            let now = now.with_context(|| format!("the CPU clock of egret {}", part.name()))?;
            Ok(Duration::from(now))
        })
        .sum()
}
