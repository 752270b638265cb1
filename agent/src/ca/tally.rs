//! What was issued and what was refused: counted all, logged a few a second, because whoever is refused may ask again at once.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tonic::{Code, Status};

/// Lines per [`WINDOW`].
const LINES: u64 = 10;
const WINDOW: Duration = Duration::from_secs(10);

/// Counters by name, and how much was logged lately.
#[derive(Debug)]
pub struct Tally {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    counts: BTreeMap<&'static str, u64>,
    since: Instant,
    lines: u64,
}

impl Default for Tally {
    fn default() -> Self {
        let inner = Inner { counts: BTreeMap::new(), since: Instant::now(), lines: 0 };
        Self { inner: Mutex::new(inner) }
    }
}

impl Tally {
    /// All counters.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.inner.lock().counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    /// A certificate was issued.
    pub(super) fn issued(&self) {
        self.count("issued");
    }

    /// A connection was not accepted.
    pub(super) fn turned_away(&self, peer: IpAddr) {
        self.count("too_many_connections");
        self.log(|left_out| {
            tracing::warn!(%peer, left_out, "a connection was closed: too many of that address, or of all");
        });
    }

    /// A request was refused.
    pub(super) fn refused(&self, peer: IpAddr, status: &Status) {
        let name = match status.code() {
            Code::Unauthenticated => "unauthenticated",
            Code::PermissionDenied => "denied",
            Code::InvalidArgument => "invalid",
            Code::ResourceExhausted => "shut_out",
            _ => "unavailable",
        };
        self.count(name);
        self.log(|left_out| tracing::warn!(%peer, left_out, "no certificate: {}", status.message()));
    }

    fn count(&self, name: &'static str) {
        *self.inner.lock().counts.entry(name).or_default() += 1;
    }

    /// Logs, unless there was too much lately; `line` gets how many lines were left out since the last one.
    fn log(&self, line: impl FnOnce(u64)) {
        let left_out = {
            let mut inner = self.inner.lock();
            let mut left_out = 0;
            if inner.since.elapsed() >= WINDOW {
                left_out = inner.lines.saturating_sub(LINES);
                (inner.since, inner.lines) = (Instant::now(), 0);
            }
            inner.lines += 1;
            if inner.lines > LINES {
                return;
            }
            left_out
        };
        line(left_out);
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::{LINES, Tally};

    #[test]
    fn everything_is_counted_and_little_is_logged() {
        let tally = Tally::default();
        for _ in 0..100 {
            tally.refused([10, 0, 0, 1].into(), &Status::permission_denied("no"));
        }
        tally.issued();
        assert_eq!(tally.counts(), [("denied".to_owned(), 100), ("issued".to_owned(), 1)].into());
        let mut lines = 0;
        tally.log(|_| lines += 1);
        assert_eq!(lines, 0, "{LINES} have been written already");
    }
}
