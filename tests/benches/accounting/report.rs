//! What was measured, as text and as JSON. Ratios are taken within each pair, so that what changes slowly on the machine does not count; then
//! the median, with the range in which the true one lies with 95 % confidence (order statistics: no assumption about how they are
//! distributed).

use std::{
    fs,
    io::{self, Write as _},
    time::Duration,
};

use anyhow::{Context as _, Result};
use egret_tests::egret::workspace;
use serde_json::{Value, json};

use crate::drive::Load;

/// What accounting may cost, in percent of requests per CPU second.
const GOAL: f64 = 2.0;

/// One instance under load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) requests: u64,
    pub(crate) cpu: Duration,
}

impl Sample {
    fn per_cpu_second(self) -> f64 {
        self.requests as f64 / self.cpu.as_secs_f64()
    }
}

/// Both instances, one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    /// Of which start.
    pub(crate) start: usize,
    pub(crate) load: Load,
    pub(crate) on: Sample,
    pub(crate) off: Sample,
}

impl Pair {
    /// What accounting took, in percent.
    fn overhead(&self) -> f64 {
        (1.0 - self.on.per_cpu_second() / self.off.per_cpu_second()) * 100.0
    }
}

/// A load's pairs, summed up.
struct Summary {
    load: Load,
    pairs: usize,
    on: f64,
    off: f64,
    /// Lowest, median, highest.
    overhead: [f64; 3],
    /// The medians of each start.
    starts: Vec<f64>,
}

impl Summary {
    fn of(load: Load, pairs: &[Pair]) -> Self {
        let pairs: Vec<_> = pairs.iter().filter(|pair| pair.load == load).collect();
        let middle = |pick: fn(&Pair) -> f64| median(pairs.iter().map(|pair| pick(pair)).collect());
        let mut overheads: Vec<_> = pairs.iter().map(|pair| pair.overhead()).collect();
        overheads.sort_unstable_by(f64::total_cmp);
        let (low, high) = confidence(overheads.len());
        let starts = pairs.last().map_or(0, |pair| pair.start + 1);
        let of_start = |start| {
            let same = pairs.iter().filter(|pair| pair.start == start);
            median(same.map(|pair| pair.overhead()).collect())
        };
        let at = |rank: usize| overheads.get(rank).copied().unwrap_or(f64::NAN);
        Self {
            load,
            pairs: pairs.len(),
            on: middle(|pair| pair.on.per_cpu_second()),
            off: middle(|pair| pair.off.per_cpu_second()),
            overhead: [at(low), median(overheads.clone()), at(high)],
            starts: (0..starts).map(of_start).collect(),
        }
    }

    fn json(&self) -> Value {
        let [low, middle, high] = self.overhead;
        json!({
            "load": self.load.name(),
            "pairs": self.pairs,
            "requests_per_cpu_second": { "on": self.on.round(), "off": self.off.round() },
            "overhead_percent": { "median": middle, "from": low, "to": high, "of_each_start": self.starts },
        })
    }
}

/// Prints, and writes the summary.
pub(crate) fn write(pairs: &[Pair], as_json: bool) -> Result<()> {
    let loads = Load::ALL.map(|load| Summary::of(load, pairs));
    let summary = json!({ "goal_percent": GOAL, "loads": loads.each_ref().map(Summary::json) });
    let directory = workspace().join("target/bench");
    fs::create_dir_all(&directory)?;
    let path = directory.join("accounting.json");
    fs::write(&path, format!("{summary:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    let mut out = io::stdout().lock();
    let written = if as_json { writeln!(out, "{summary:#}") } else { text(&mut out, &loads) };
    written.context("cannot write to standard output")
}

fn text(out: &mut impl io::Write, loads: &[Summary]) -> io::Result<()> {
    for Summary { load, pairs, on, off, overhead: [low, middle, high], starts } in loads {
        let starts: Vec<_> = starts.iter().map(|start| format!("{start:+.1}")).collect();
        writeln!(out, "{}, {pairs} pairs", load.title())?;
        writeln!(out, "  with accounting     {on:>8.0} requests per CPU second")?;
        writeln!(out, "  without             {off:>8.0}")?;
        writeln!(
            out,
            "  overhead            {middle:>+8.2} %  ({low:+.2} to {high:+.2}, 95 %; goal: below {GOAL} %)"
        )?;
        writeln!(out, "  of each start       {}", starts.join("  "))?;
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    at(values.len().saturating_sub(1) / 2).midpoint(at(values.len() / 2))
}

/// Between which of `count` values, sorted, the true median lies in 95 of 100 cases: so many heads or more of as many coins come down in
/// 97.5 of them.
fn confidence(count: usize) -> (usize, usize) {
    let mut probability = 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    let (mut below, mut rank) = (0.0, 0);
    while rank < count / 2 && below + probability <= 0.025 {
        below += probability;
        probability *= (count - rank) as f64 / (rank + 1) as f64;
        rank += 1;
    }
    let low = rank.saturating_sub(1);
    (low, count.saturating_sub(1 + low))
}
