//! Reads the kernel programs' counters. Called by metrics and the CLI.

use agent_common::{Decision, names};
use aya::maps::{MapData, MapError, PerCpuArray};

use super::{Error, pins::Pins};

/// Every decision with how often it was taken, summed over the CPUs.
pub(super) fn read(pins: &Pins) -> Result<Vec<(&'static str, u64)>, Error> {
    let fail = |error: MapError| pins.map_error(names::DECISIONS, error);
    let counters: PerCpuArray<MapData, u64> = pins.typed_map(names::DECISIONS)?.try_into().map_err(fail)?;
    Decision::ALL
        .iter()
        .map(|decision| {
            let per_cpu = counters.get(&(*decision as u32), 0).map_err(fail)?;
            Ok((decision.name(), per_cpu.iter().sum()))
        })
        .collect()
}

/// How much could not be told through the ring.
pub(super) fn lost_events(pins: &Pins) -> Result<u64, Error> {
    sum(pins, &[Decision::EventLost])
}

/// How many packets there were of connections that no program saw begin and nobody had let go on.
pub(super) fn unjudged(pins: &Pins) -> Result<u64, Error> {
    sum(pins, &[Decision::PassedOlderConnection, Decision::DroppedOlderConnection])
}

fn sum(pins: &Pins, decisions: &[Decision]) -> Result<u64, Error> {
    let fail = |error: MapError| pins.map_error(names::DECISIONS, error);
    let counters: PerCpuArray<MapData, u64> = pins.typed_map(names::DECISIONS)?.try_into().map_err(fail)?;
    let mut sum = 0;
    for decision in decisions {
        sum += counters.get(&(*decision as u32), 0).map_err(fail)?.iter().sum::<u64>();
    }
    Ok(sum)
}
