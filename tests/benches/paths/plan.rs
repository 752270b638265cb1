//! What is measured, where, and for how long.

use std::time::Duration;

use crate::path::Path;

/// One thing to measure of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// As fast as it goes, on so many connections.
    Closed(usize),
    /// 1,000 requests a second.
    Open,
    /// A connection per request.
    Fresh,
    /// One stream, down and up.
    Bulk,
    /// Idle, and with idle flows.
    Memory,
}

impl Phase {
    /// What `--phases` takes.
    pub(crate) const KEYS: [&str; 5] = ["memory", "closed", "open", "fresh", "bulk"];

    /// Its one of [`Self::KEYS`].
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Closed(_) => "closed",
            Self::Open => "open",
            Self::Fresh => "fresh",
            Self::Bulk => "bulk",
            Self::Memory => "memory",
        }
    }

    /// For people.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Closed(connections) => format!("at maximum rate on {connections} connections"),
            Self::Open => "at 1,000 requests per second".to_owned(),
            Self::Fresh => "with a connection per request".to_owned(),
            Self::Bulk => "in bulk".to_owned(),
            Self::Memory => "with idle flows".to_owned(),
        }
    }
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// The ratios that matter most, in less than five minutes.
    Quick,
    /// Everything.
    Full,
}

impl Effort {
    /// Rounds, and the time after which no other one begins that may not fit.
    pub(crate) fn rounds(self) -> (usize, Duration) {
        match self {
            Self::Quick => (5, Duration::from_secs(295)),
            Self::Full => (5, Duration::from_mins(40)),
        }
    }

    pub(crate) fn paths(self) -> Vec<Path> {
        let left_out = |path: &Path| matches!(path, Path::EnvoyPairLarge | Path::HaproxyHop);
        Path::ALL.into_iter().filter(|path| self == Self::Full || !left_out(path)).collect()
    }

    /// What is measured of a path in a round.
    pub(crate) fn phases(self, path: Path, round: usize) -> Vec<Phase> {
        use Phase::{Bulk, Closed, Fresh, Memory, Open};
        match (path, self) {
            (Path::DirectTls, _) => vec![Bulk],
            (Path::NoProxy, Self::Quick) => vec![Open],
            (Path::NoProxy, Self::Full) => vec![Closed(1), Closed(32), Closed(256), Open, Fresh, Bulk],
            (Path::EgretLarge | Path::EnvoyPairLarge | Path::NginxHop, Self::Quick) => vec![Closed(32)],
            (Path::EgretLarge | Path::EnvoyPairLarge, Self::Full) => vec![Closed(32), Open],
            // Memory hardly varies.
            (_, Self::Quick) if round > 0 => vec![Closed(32), Open, Fresh, Bulk],
            (_, Self::Quick) => vec![Memory, Closed(32), Open, Fresh, Bulk],
            (_, Self::Full) => vec![Memory, Closed(1), Closed(32), Closed(256), Open, Fresh, Bulk],
        }
    }

    /// How many idle flows memory is measured with.
    pub(crate) fn idle_flows(self) -> &'static str {
        match self {
            Self::Quick => "0,10000",
            Self::Full => "0,1000,10000",
        }
    }

    /// Warm-up and window.
    pub(crate) fn times(self, phase: Phase) -> (Duration, Duration) {
        let (warm_up, window) = match (phase, self) {
            (Phase::Closed(32), Self::Quick) => (700, 2_000),
            (Phase::Closed(32), Self::Full) => (1_000, 2_500),
            (Phase::Closed(_), _) => (500, 1_500),
            (Phase::Open, Self::Quick) => (500, 3_000),
            (Phase::Open, Self::Full) => (500, 4_000),
            (Phase::Fresh | Phase::Bulk, Self::Quick) => (300, 1_200),
            (Phase::Fresh | Phase::Bulk, Self::Full) => (500, 2_000),
            (Phase::Memory, _) => (0, 0),
        };
        (Duration::from_millis(warm_up), Duration::from_millis(window))
    }
}
