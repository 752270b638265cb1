//! `cargo bench -p egret-tests --bench connect`: what `connect()` costs, as root.
//!
//! Five states, in rounds in which they take turns, on one CPU, in network namespaces of the benchmark's own:
//! - `none`: no program is attached anywhere on this machine. Twice a round: what two equal states differ by is noise, and
//!   the others are compared with the mean of both.
//! - `sibling`: Egret's programs are attached to another cgroup; this is what everybody on a node with workloads pays.
//! - `enrolled`: they are attached to ours: captured, accepted, original destination taken.
//! - `redirect`: no program; netfilter's REDIRECT instead, accepted, original destination taken.
//!
//! A round counts only if nobody else has attached programs to cgroups meanwhile. The summary is printed, and written to
//! `target/bench/connect.json`; `-- -o json` prints that.

mod measure;
mod report;
mod rig;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Parser;
use egret_tests::{bpf, privileges};

use self::{
    measure::Sample,
    rig::{Rig, State},
};

/// What `connect()` costs.
#[derive(Parser)]
struct Options {
    /// Rounds that count
    #[arg(long, default_value_t = 300)]
    rounds: usize,
    /// Give up after so many seconds
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// The CPU to stay on
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    /// "json" prints the summary as JSON
    #[arg(short, long)]
    output: Option<String>,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// What was measured in one round: a sample per state, in the order of [`State::ALL`].
type Round = Vec<Sample>;

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(why) = privileges::missing() {
        bail!("this benchmark cannot run here: {why}");
    }
    let rig = Rig::new(options.cpu)?;
    let (rounds, spoiled) = measure(&rig, &options)?;
    drop(rig);
    report::write(&rounds, spoiled, options.output.as_deref() == Some("json"))
}

/// Measures until enough rounds count. Also how many did not.
fn measure(rig: &Rig, options: &Options) -> Result<(Vec<Round>, usize)> {
    let deadline = Instant::now() + Duration::from_secs(options.seconds);
    let (mut rounds, mut spoiled) = (Vec::new(), 0);
    for number in 0.. {
        if rounds.len() >= options.rounds {
            break;
        }
        if Instant::now() >= deadline {
            if rounds.is_empty() {
                bail!(
                    "not one round without programs of others on cgroups: end what attaches them, and try again"
                );
            }
            break;
        }
        match round(rig, number)? {
            Some(round) => rounds.push(round),
            None => spoiled += 1,
        }
    }
    Ok((rounds, spoiled))
}

/// One round, in an order of its own; None: somebody else's programs were attached.
fn round(rig: &Rig, number: usize) -> Result<Option<Round>> {
    let mut round = vec![None; State::ALL.len()];
    for step in 0..State::ALL.len() {
        // Every state comes in every place, and after every other.
        let place = (number / 2 + step) % State::ALL.len();
        let index = if number.is_multiple_of(2) { place } else { State::ALL.len() - 1 - place };
        let state = State::ALL[index];
        rig.enter(state)?;
        let before = bpf::links_on_cgroups()?;
        let sample = rig.measure(state)?;
        let clean = before == state.links() && bpf::links_on_cgroups()? == before;
        rig.leave(state)?;
        if !clean {
            return Ok(None);
        }
        round[index] = Some(sample);
    }
    Ok(round.into_iter().collect())
}
