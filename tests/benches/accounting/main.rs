//! `cargo bench -p egret-tests --bench accounting`: what flow accounting costs, as root; in about three minutes, or with `-- --quick` in one.
//!
//! Two instances of `egret up` on one configuration: one that remembers flows as it does by default, and one with `--flow-capacity 0`,
//! which keeps no records. A workload of each asks the same external service, in a network namespace, by plain HTTP through the egress
//! gateway and an AuthorizationPolicy. They take turns every second, in an order that changes, and what is compared are neighbours:
//! requests per second of CPU time of all processes of the instance (user and system, by the kernel's clock of each process, in
//! nanoseconds). Instances are started anew several times: two runs of one program differ by where things lie in memory.
//!
//! Two loads: requests on 32 connections that are kept, and requests with a connection each. A flow is a connection, so the second is the
//! worst there is. The binary is `EGRET_BIN`, else `target/release/egret`. The summary is printed, and written to
//! `target/bench/accounting.json`; `-- -o json` prints that.

mod cpu;
mod drive;
mod report;
mod rig;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, bail};
use clap::Parser;
use egret_tests::privileges;

use self::{
    drive::Load,
    report::Pair,
    rig::{Instance, Rig},
};

/// What flow accounting costs.
#[derive(Parser)]
struct Options {
    /// How often instances are started anew
    #[arg(long, default_value_t = 5)]
    starts: usize,
    /// Pairs per start and load
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// Milliseconds of load on each instance of a pair
    #[arg(long, default_value_t = 1000)]
    milliseconds: u64,
    /// 2 starts with 6 pairs of half a second
    #[arg(long)]
    quick: bool,
    /// "json" prints the summary as JSON
    #[arg(short, long)]
    output: Option<String>,
    /// As a workload: make load on this server, as told on standard input
    #[arg(long, hide = true)]
    drive: Option<SocketAddr>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(server) = options.drive {
        return drive::run(server);
    }
    if let Some(why) = privileges::missing() {
        bail!("this benchmark cannot run here: {why}");
    }
    let (starts, pairs, milliseconds) =
        if options.quick { (2, 6, 500) } else { (options.starts, options.pairs, options.milliseconds) };
    let time = Duration::from_millis(milliseconds);
    let rig = Rig::new()?;
    let mut measured = Vec::new();
    for start in 0..starts {
        let mut on = rig.start("on", &[])?;
        let mut off = rig.start("off", &["--flow-capacity", "0"])?;
        for load in Load::ALL {
            // Until tables are full and pools are filled.
            for instance in [&mut on, &mut off] {
                instance.measure(load, time * 2)?;
            }
            for pair in 0..pairs {
                measured.push(compare(start, pair, load, time, (&mut on, &mut off))?);
                rig.forget(&[&on, &off])?;
            }
        }
    }
    report::write(&measured, options.output.as_deref() == Some("json"))
}

/// One pair; each instance comes first in every other one.
fn compare(
    start: usize,
    pair: usize,
    load: Load,
    time: Duration,
    (on, off): (&mut Instance, &mut Instance),
) -> Result<Pair> {
    let (on, off) = if (start + pair).is_multiple_of(2) {
        let on = on.measure(load, time)?;
        (on, off.measure(load, time)?)
    } else {
        let off = off.measure(load, time)?;
        (on.measure(load, time)?, off)
    };
    Ok(Pair { start, load, on, off })
}
