//! The verdict: what an attempt saw from inside, and what the witness got. Pure.

use serde::Serialize;

use super::{
    sniff::Arrival,
    vector::{Attempt, Expected, Seen},
};

/// Whether a vector is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing went out directly.
    Held,
    /// Something did.
    Escaped,
    /// The kernel took it, and nobody watched the other side.
    Unproven,
    /// Cannot be tried here.
    NotAvailable,
}

impl Verdict {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Escaped => "escaped",
            Self::Unproven => "unproven",
            Self::NotAvailable => "not_available",
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The vector.
    pub vector: &'static str,
    /// How it should end.
    pub expected: Expected,
    /// What happened.
    pub seen: String,
    /// Whether it is closed. A vector that was refused where it should be captured is closed, too.
    pub verdict: Verdict,
}

/// Judges a vector. `arrivals` is what the witness got, or none where nobody watched.
pub(super) fn judge(
    vector: &'static str,
    expected: Expected,
    token: &str,
    attempt: &Attempt,
    arrivals: Option<&[Arrival]>,
) -> Outcome {
    let arrived = arrivals.map(|arrivals| arrivals.iter().find(|one| belongs(one, token, attempt.port)));
    let (verdict, seen) = match (&attempt.seen, arrived) {
        (Seen::NotAvailable(why), _) => (Verdict::NotAvailable, why.clone()),
        (_, Some(Some(arrival))) => {
            (Verdict::Escaped, format!("{} reached the witness from {}", arrival.protocol, arrival.source))
        }
        (Seen::Direct(how), _) => (Verdict::Escaped, how.clone()),
        (Seen::Captured(how), _) => (Verdict::Held, format!("captured: {how}")),
        (Seen::Refused(why), _) => (Verdict::Held, format!("refused: {why}")),
        (Seen::Dropped, _) => (Verdict::Held, "dropped".to_owned()),
        (Seen::Sent, Some(None)) => (Verdict::Held, "dropped: sent, did not reach the witness".to_owned()),
        (Seen::Sent, None) => (Verdict::Unproven, "sent; no witness to say where it went".to_owned()),
    };
    Outcome { vector, expected, seen, verdict }
}

/// Whether an arrival is this vector's: by token, or by source port where nothing else can be put into the first packet.
fn belongs(arrival: &Arrival, token: &str, port: Option<u16>) -> bool {
    arrival.token.as_deref().map_or_else(|| port.is_some() && arrival.port == port, |found| found == token)
}

#[cfg(test)]
mod tests {
    use super::{Verdict, judge};
    use crate::verify_bypass::{
        sniff::Arrival,
        vector::{Attempt, Expected, Seen},
    };

    fn arrival(token: Option<&str>, port: Option<u16>) -> Arrival {
        Arrival {
            protocol: "udp".to_owned(),
            source: "192.0.2.1".parse().unwrap(),
            port,
            token: token.map(str::to_owned),
        }
    }

    fn verdict(seen: Seen, port: Option<u16>, arrivals: Option<&[Arrival]>) -> Verdict {
        judge("x", Expected::Blocked, "mine", &Attempt { seen, port }, arrivals).verdict
    }

    #[test]
    fn without_a_witness_what_is_seen_locally_counts() {
        for (seen, expected) in [
            (Seen::Captured(String::new()), Verdict::Held),
            (Seen::Refused(String::new()), Verdict::Held),
            (Seen::Dropped, Verdict::Held),
            (Seen::Sent, Verdict::Unproven),
            (Seen::Direct(String::new()), Verdict::Escaped),
            (Seen::NotAvailable(String::new()), Verdict::NotAvailable),
        ] {
            assert_eq!(verdict(seen.clone(), None, None), expected, "{seen:?}");
        }
    }

    #[test]
    fn the_witness_is_believed_over_what_is_seen_locally() {
        let mine = [arrival(Some("other"), None), arrival(Some("mine"), None)];
        for seen in [Seen::Captured(String::new()), Seen::Refused(String::new()), Seen::Dropped, Seen::Sent] {
            assert_eq!(verdict(seen.clone(), None, Some(&mine)), Verdict::Escaped, "{seen:?}");
        }
        let others = [arrival(Some("other"), Some(20_000)), arrival(None, Some(20_001))];
        assert_eq!(verdict(Seen::Sent, Some(20_000), Some(&others)), Verdict::Held);
    }

    #[test]
    fn a_connection_is_known_by_its_source_port() {
        let syn = [arrival(None, Some(20_000))];
        assert_eq!(verdict(Seen::Dropped, Some(20_000), Some(&syn)), Verdict::Escaped);
        assert_eq!(verdict(Seen::Dropped, Some(20_001), Some(&syn)), Verdict::Held);
        // A packet without a port belongs to no connection.
        assert_eq!(verdict(Seen::Dropped, None, Some(&[arrival(None, None)])), Verdict::Held);
    }
}
