//! Runs the vectors, all at once, and asks the witness what arrived.

use std::{
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use serde::Serialize;

use super::{
    PATIENCE, answer, devices, frames, gateway, handed_in,
    judge::{Outcome, Verdict, judge},
    raw, surroundings, tcp, udp,
    vector::{self, Attempt, Context, Probe, Vector},
    witness::{self, Testimony},
};

const FAMILIES: [&[Vector]; 8] = [
    tcp::VECTORS,
    surroundings::VECTORS,
    handed_in::VECTORS,
    udp::VECTORS,
    raw::VECTORS,
    frames::VECTORS,
    devices::VECTORS,
    gateway::VECTORS,
];

/// What packets that have left get to arrive, before the witness is asked.
const FLIGHT: Duration = Duration::from_millis(300);

/// What came of the battery: the JSON of `egret verify-bypass -o json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What the vectors aimed at.
    pub targets: Vec<SocketAddr>,
    /// Whether a witness said what reached it.
    pub watched: bool,
    /// Why not.
    pub unwatched_because: Option<String>,
    /// The vectors, in a fixed order.
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// How many vectors ended so.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.verdict == verdict).count()
    }
}

/// Tries everything, in a few seconds.
pub fn run(context: &Context) -> Report {
    let targets: Vec<SocketAddr> =
        context.target.map(Into::into).into_iter().chain(context.target_v6.map(Into::into)).collect();
    // Asked before, too: what arrived earlier is of another run.
    let before = ask(&targets, witness::PATH);
    let run = rand::random();
    let vectors: Vec<&Vector> = FAMILIES.into_iter().flatten().collect();
    let attempts: Vec<Attempt> = thread::scope(|scope| {
        let threads: Vec<_> = vectors
            .iter()
            .enumerate()
            .map(|(index, vector)| {
                let probe = Probe { context, token: vector::token(run, index) };
                // A thread each: some change what belongs to a thread, and nobody waits for another's time limit.
                scope.spawn(move || (vector.attempt)(&probe))
            })
            .collect();
        let ended = threads.into_iter().map(thread::ScopedJoinHandle::join);
        ended
            .map(|attempt| attempt.unwrap_or_else(|_| Attempt::not_available("the attempt panicked")))
            .collect()
    });
    let arrivals = before.and_then(|before| {
        #[expect(
            clippy::disallowed_methods,
            reason = "nobody can say when a packet that was dropped would have arrived"
        )]
        thread::sleep(FLIGHT);
        let mut after = ask(&targets, witness::ARRIVALS)?;
        after.arrivals.retain(|arrival| arrival.number >= before.next);
        Ok(after.arrivals.into_iter().map(|numbered| numbered.arrival).collect::<Vec<_>>())
    });
    let outcomes = vectors
        .iter()
        .zip(attempts)
        .enumerate()
        .map(|(index, (vector, attempt))| {
            let arrivals = arrivals.as_deref().ok();
            judge(vector.name, vector.expected, &vector::token(run, index), &attempt, arrivals)
        })
        .collect();
    Report { targets, watched: arrivals.is_ok(), unwatched_because: arrivals.err(), outcomes }
}

/// One vector by its name, judged by nobody: what a child of the battery runs.
pub fn single(context: &Context, name: &str) -> Option<Attempt> {
    let vector = FAMILIES.into_iter().flatten().find(|vector| vector.name == name)?;
    Some((vector.attempt)(&Probe { context, token: vector::token(rand::random(), 0) }))
}

/// Asks the witness, by the way that connections take here.
fn ask(targets: &[SocketAddr], path: &str) -> Result<Testimony, String> {
    let Some(target) = targets.first() else { return Err("no --target".to_owned()) };
    let answer = TcpStream::connect_timeout(target, PATIENCE)
        .and_then(|stream| answer::ask(stream, path, *target))
        .map_err(|error| format!("{target} does not answer: {error}"))?;
    answer::testimony(&answer).filter(|testimony| testimony.peer.is_some()).ok_or_else(|| {
        format!(
            "{target} is no witness, or cannot be asked through the gateway ({})",
            answer::status(&answer)
        )
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{FAMILIES, single};
    use crate::verify_bypass::vector::{Context, Seen};

    #[test]
    fn every_vector_has_a_name_of_its_own_and_a_number_of_two_digits() {
        let names: Vec<_> = FAMILIES.into_iter().flatten().map(|vector| vector.name).collect();
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), names.len());
        assert!(names.len() < 100);
    }

    #[test]
    fn without_a_target_nothing_is_tried() {
        for vector in FAMILIES.into_iter().flatten().filter(|vector| vector.name.starts_with("tcp")) {
            let attempt = single(&Context::default(), vector.name).unwrap();
            assert!(matches!(attempt.seen, Seen::NotAvailable(_)), "{}: {attempt:?}", vector.name);
        }
        assert_eq!(single(&Context::default(), "no such vector"), None);
    }
}
