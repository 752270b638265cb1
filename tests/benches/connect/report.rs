//! What was measured, as a table and as JSON. Ratios are taken within each round, so that what changes slowly on the machine
//! does not count; then the median over the rounds, with the quartiles.

use std::{
    fs,
    io::{self, Write as _},
};

use anyhow::{Context as _, Result};
use egret_tests::{
    egret::workspace,
    quartiles::{median, quartiles},
};
use serde_json::{Value, json};

use crate::{Round, measure::Sample, rig::State};

type Pick = fn(&Sample) -> f64;

const PROBES: [(&str, Pick); 5] = [
    ("TCP over a link: connect() alone", |sample| sample.remote.connect),
    ("TCP over a link: socket, connect, accept, close", |sample| sample.remote.whole),
    ("TCP on loopback: connect() alone", |sample| sample.loopback.connect),
    ("TCP on loopback: socket, connect, accept, close", |sample| sample.loopback.whole),
    ("UDP: connect() alone", |sample| sample.udp),
];

/// Prints, and writes the summary.
pub(crate) fn write(rounds: &[Round], spoiled: usize, as_json: bool) -> Result<()> {
    let summary = json!({
        "rounds": rounds.len(),
        "rounds_with_programs_of_others": spoiled,
        "probes": PROBES.map(|(name, pick)| json!({ "name": name, "states": states(rounds, pick) })),
    });
    let directory = workspace().join("target/bench");
    fs::create_dir_all(&directory)?;
    let path = directory.join("connect.json");
    fs::write(&path, format!("{summary:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
    let mut out = io::stdout().lock();
    let written = if as_json { writeln!(out, "{summary:#}") } else { table(&mut out, rounds, spoiled) };
    written.context("cannot write to standard output")
}

fn states(rounds: &[Round], pick: Pick) -> Value {
    let states = State::ALL.iter().enumerate().map(|(index, state)| {
        let (nanoseconds, ratio) = compare(rounds, pick, index);
        let [low, middle, high] = ratio;
        (
            state.name().to_owned(),
            json!({
                "nanoseconds": nanoseconds.round(),
                "ratio": { "median": middle, "lower_quartile": low, "upper_quartile": high },
            }),
        )
    });
    Value::Object(states.collect())
}

/// The median, and quartiles of the ratio to the mean of both `none`.
fn compare(rounds: &[Round], pick: Pick, state: usize) -> (f64, [f64; 3]) {
    let mut values: Vec<f64> = rounds.iter().map(|round| pick(&round[state])).collect();
    let without = |round: &Round| pick(&round[0]).midpoint(pick(&round[1]));
    let mut ratios: Vec<f64> = rounds.iter().map(|round| pick(&round[state]) / without(round)).collect();
    (median(&mut values), quartiles(&mut ratios))
}

fn table(out: &mut impl io::Write, rounds: &[Round], spoiled: usize) -> io::Result<()> {
    writeln!(out, "{} rounds, {spoiled} more with programs of others", rounds.len())?;
    for (name, pick) in PROBES {
        writeln!(out, "\n{name}")?;
        for (index, state) in State::ALL.iter().enumerate() {
            let (nanoseconds, [low, middle, high]) = compare(rounds, pick, index);
            let (name, microseconds) = (state.name(), nanoseconds / 1000.0);
            writeln!(out, "  {name:<11} {microseconds:>8.2} µs   ratio {middle:.3} ({low:.3} to {high:.3})")?;
        }
    }
    Ok(())
}
