//! `egret top`: rates, latencies, denials and failures by host, workload or rule, as they are now, and the flows behind them.
//!
//! A live view where stdout is a terminal; elsewhere a table for each interval, and with `-o json` a line. `survey::activity` counts.

mod columns;
mod draw;
mod live;
mod plain;
mod view;
mod watch;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use self::watch::Watch;
use super::{
    args::{Format, Top},
    flows::asking::Roles,
};

/// Asks again and again, until interrupted or until nobody reads.
pub(super) async fn run(arguments: Top) -> anyhow::Result<ExitCode> {
    let roles = Roles::find(&arguments.access, &arguments.query.instance).await?;
    let interval = arguments.interval(roles.is_cluster())?.unsigned_abs();
    let watch = Watch::new(arguments.query(), arguments.window);
    match arguments.query.output.format {
        Format::Table if io::stdout().is_terminal() => live::run(roles, watch, interval, &arguments).await,
        Format::Table | Format::Json => plain::run(&roles, watch, interval, &arguments).await,
    }
}
