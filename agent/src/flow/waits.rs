//! Whom a flow waited for: the engine that charges every stretch of time in which nothing moved to one end, and what comes of it.
//!
//! `net::copy` and `net::counted` tell a [`Ledger`] what happened when; the flow keeps the sums. An end has to be waited for because it
//! says nothing (silent) or takes nothing (blocked). A silence is charged to the end that breaks it: it was waited for. One that no byte
//! breaks (the connection ends, or it goes on) is charged to the end whose turn it is: the other one spoke last; where nobody spoke, the
//! workload.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// An end of the stream, as the process that records sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Towards the workload: to the agent the workload itself, to the gateway the tunnel.
    Near,
    /// Towards the external server: to the agent the tunnel, to the gateway the upstream connection.
    Far,
}

/// What was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The near end sent nothing.
    SilentNear,
    /// The near end took nothing.
    BlockedNear,
    /// The far end sent nothing.
    SilentFar,
    /// The far end took nothing.
    BlockedFar,
}

impl Wait {
    /// All of them, by index.
    pub const ALL: [Self; 4] = [Self::SilentNear, Self::BlockedNear, Self::SilentFar, Self::BlockedFar];
}

/// How long a flow waited, in microseconds. Together with set-up and Egret's own work they make its duration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Waits {
    /// The near end sent nothing.
    pub silent_near_us: u64,
    /// The near end took nothing.
    pub blocked_near_us: u64,
    /// The far end sent nothing.
    pub silent_far_us: u64,
    /// The far end took nothing.
    pub blocked_far_us: u64,
}

impl Waits {
    /// From sums in nanoseconds, in the order of [`Wait::ALL`].
    pub fn of_nanoseconds(sums: [u64; 4]) -> Self {
        let [silent_near_us, blocked_near_us, silent_far_us, blocked_far_us] = sums.map(|sum| sum / 1000);
        Self { silent_near_us, blocked_near_us, silent_far_us, blocked_far_us }
    }

    /// For the near end.
    pub fn near_us(&self) -> u64 {
        self.silent_near_us + self.blocked_near_us
    }

    /// For the far end.
    pub fn far_us(&self) -> u64 {
        self.silent_far_us + self.blocked_far_us
    }
}

/// What happened at a moment, and how things stand after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Bytes came from the near end.
    pub near_spoke: bool,
    /// Bytes came from the far end.
    pub far_spoke: bool,
    /// From now on there are bytes that the near end does not take.
    pub near_blocks: bool,
    /// From now on there are bytes that the far end does not take.
    pub far_blocks: bool,
}

/// Charges the time between the steps of one flow.
#[derive(Debug)]
pub struct Ledger {
    since: Instant,
    last: Step,
    /// Who spoke last.
    spoke: Option<End>,
}

impl Ledger {
    /// Begins at `now`.
    pub fn new(now: Instant) -> Self {
        Self { since: now, last: Step::default(), spoke: None }
    }

    /// Whether a step that brings no bytes would tell nothing new.
    pub fn stands(&self, near_blocks: bool, far_blocks: bool) -> bool {
        (self.last.near_blocks, self.last.far_blocks) == (near_blocks, far_blocks)
    }

    /// Whether the near end took nothing, when last something happened.
    pub fn near_blocks(&self) -> bool {
        self.last.near_blocks
    }

    /// Something happened at `now`: the time since the last step is charged, in one or two parts.
    pub fn step(&mut self, now: Instant, step: Step, mut charge: impl FnMut(Wait, Duration)) {
        let time = now.saturating_duration_since(self.since);
        match (self.last.near_blocks, self.last.far_blocks, step.near_spoke, step.far_spoke) {
            (true, true, ..) => {
                charge(Wait::BlockedNear, time / 2);
                charge(Wait::BlockedFar, time / 2);
            }
            (true, false, ..) => charge(Wait::BlockedNear, time),
            (false, true, ..) => charge(Wait::BlockedFar, time),
            (false, false, true, true) => {
                charge(Wait::SilentNear, time / 2);
                charge(Wait::SilentFar, time / 2);
            }
            (false, false, true, false) => charge(Wait::SilentNear, time),
            (false, false, false, true) => charge(Wait::SilentFar, time),
            (false, false, false, false) => charge(self.ongoing(), time),
        }
        self.since = now;
        self.last = step;
        self.spoke = match (step.near_spoke, step.far_spoke) {
            // Where both did, it is the server's turn, as after every request.
            (true, _) => Some(End::Near),
            (false, true) => Some(End::Far),
            (false, false) => self.spoke,
        };
    }

    /// What is waited for since the last step, as far as can be told before it is over.
    pub fn ongoing(&self) -> Wait {
        match (self.last.near_blocks, self.last.far_blocks, self.spoke) {
            (true, ..) => Wait::BlockedNear,
            (false, true, _) => Wait::BlockedFar,
            (false, false, Some(End::Near)) => Wait::SilentFar,
            (false, false, Some(End::Far) | None) => Wait::SilentNear,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NEAR: Step = Step { near_spoke: true, far_spoke: false, near_blocks: false, far_blocks: false };
    const FAR: Step = Step { near_spoke: false, far_spoke: true, near_blocks: false, far_blocks: false };
    const QUIET: Step = Step { near_spoke: false, far_spoke: false, near_blocks: false, far_blocks: false };

    /// What is charged for steps at these milliseconds.
    fn charged(steps: &[(u64, Step)]) -> [u64; 4] {
        let start = Instant::now();
        let mut ledger = Ledger::new(start);
        let mut sums = [0; 4];
        for (at, step) in steps {
            ledger.step(start + Duration::from_millis(*at), *step, |wait, time| {
                sums[wait as usize] += time.as_millis() as u64;
            });
        }
        sums
    }

    #[test]
    fn a_silence_is_charged_to_whoever_breaks_it() {
        assert_eq!(charged(&[(10, NEAR), (310, FAR)]), [10, 0, 300, 0], "the server thinks");
        assert_eq!(charged(&[(0, NEAR), (5, FAR), (805, NEAR)]), [800, 0, 5, 0], "the workload thinks");
        assert_eq!(charged(&[(0, NEAR), (40, NEAR), (80, NEAR)]), [80, 0, 0, 0], "it trickles");
        assert_eq!(charged(&[(70, FAR)]), [0, 0, 70, 0], "the server speaks first");
    }

    #[test]
    fn an_end_without_a_byte_is_charged_to_whose_turn_it_was() {
        assert_eq!(charged(&[(0, NEAR), (1, FAR), (501, QUIET)]), [500, 0, 1, 0], "kept alive, then closed");
        assert_eq!(charged(&[(0, NEAR), (500, QUIET)]), [0, 0, 500, 0], "no answer");
        assert_eq!(charged(&[(9, QUIET)]), [9, 0, 0, 0], "nobody said anything");
    }

    #[test]
    fn an_end_that_takes_nothing_is_charged_whoever_speaks() {
        let near_blocks = Step { near_blocks: true, ..FAR };
        assert_eq!(charged(&[(0, near_blocks), (100, near_blocks), (250, FAR)]), [0, 250, 0, 0]);
        let far_blocks = Step { far_blocks: true, ..NEAR };
        assert_eq!(charged(&[(0, far_blocks), (100, QUIET)]), [0, 0, 0, 100]);
        let both = Step { near_blocks: true, far_blocks: true, ..QUIET };
        assert_eq!(charged(&[(0, both), (100, QUIET)]), [0, 50, 0, 50]);
    }

    proptest! {
        #[test]
        fn all_of_the_time_is_charged_once(steps in prop::collection::vec((0_u64..1000, any::<[bool; 4]>()), 1..50)) {
            let mut at = 0;
            let steps: Vec<_> = steps
                .into_iter()
                .map(|(after, [near_spoke, far_spoke, near_blocks, far_blocks])| {
                    at += after * 2;
                    (at, Step { near_spoke, far_spoke, near_blocks, far_blocks })
                })
                .collect();
            prop_assert_eq!(charged(&steps).iter().sum::<u64>(), at);
        }
    }
}
