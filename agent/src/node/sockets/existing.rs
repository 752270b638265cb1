//! How a workload's existing connections are treated, from its enrolment on: part of its state file, so that an agent that
//! starts again neither resets nor reports anything twice.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::mesh::ExistingConnections;

/// What was decided at the enrolment, or later by the WorkloadBinding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Existing {
    /// Connections that are older than the enrolment.
    #[serde(flatten)]
    pub treatment: Treatment,
    /// When it was enrolled.
    #[serde(default)]
    pub since: Timestamp,
    /// It was enrolled before its first process: whatever no program saw begin has escaped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nothing_older: bool,
    /// The kernel's id of the map in which the standings are that were given out; 0: none yet. Another map, as after an upgrade
    /// that could not use the old one, knows nothing, and neither do the marks beside it.
    #[serde(default)]
    pub map: u32,
}

/// [`ExistingConnections`] in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Treatment {
    /// They go on.
    #[default]
    Report,
    /// They go on until then.
    KeepUntil {
        /// When they are reset.
        until: Timestamp,
    },
    /// They are reset.
    Reset,
}

impl Existing {
    /// Of a workload that is enrolled at `now`.
    pub fn new(policy: ExistingConnections, now: Timestamp) -> Self {
        Self { since: now, ..Self::default() }.under(policy)
    }

    /// The same under another policy. Times are from the enrolment on.
    #[must_use]
    pub fn under(self, policy: ExistingConnections) -> Self {
        let treatment = match policy {
            ExistingConnections::Report => Treatment::Report,
            ExistingConnections::Reset => Treatment::Reset,
            // A time that no calendar has does not come.
            ExistingConnections::KeepUntil(time) => {
                Treatment::KeepUntil { until: self.since.saturating_add(time).unwrap_or(Timestamp::MAX) }
            }
        };
        Self { treatment, ..self }
    }

    /// Whether older connections may not go on.
    pub fn ends_older(&self, now: Timestamp) -> bool {
        match self.treatment {
            Treatment::Report => false,
            Treatment::KeepUntil { until } => until <= now,
            Treatment::Reset => true,
        }
    }

    /// Whether the backstop drops what has neither mark nor standing. Not before the standings are in `map`.
    pub fn is_strict(&self, now: Timestamp, map: u32) -> bool {
        self.map == map && (self.nothing_older || self.ends_older(now))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Existing, Treatment};
    use crate::mesh::ExistingConnections;

    #[test]
    fn older_connections_end_when_the_policy_says_so() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let later = "2026-01-01T00:10:00Z".parse().unwrap();
        let ends = |policy, at| Existing::new(policy, now).ends_older(at);
        assert!(!ends(ExistingConnections::Report, later));
        assert!(ends(ExistingConnections::Reset, now));
        assert!(!ends(ExistingConnections::KeepUntil(Duration::from_mins(10)), now));
        assert!(ends(ExistingConnections::KeepUntil(Duration::from_mins(10)), later));
        assert!(!ends(ExistingConnections::KeepUntil(Duration::MAX), later));
    }

    #[test]
    fn another_policy_counts_from_the_enrolment() {
        let since = "2026-01-01T00:00:00Z".parse().unwrap();
        let later = "2026-01-01T00:10:00Z".parse().unwrap();
        let reported = Existing { map: 7, ..Existing::new(ExistingConnections::Report, since) };
        let kept = reported.under(ExistingConnections::KeepUntil(Duration::from_mins(10)));
        assert_eq!(kept.treatment, Treatment::KeepUntil { until: later });
        assert_eq!((kept.since, kept.map), (since, 7));
        assert_eq!(kept.under(ExistingConnections::Report), reported);
    }

    #[test]
    fn nothing_is_dropped_before_the_standings_are_known() {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let reset = Existing::new(ExistingConnections::Reset, now);
        assert!(!reset.is_strict(now, 7));
        assert!(Existing { map: 7, ..reset }.is_strict(now, 7));
        assert!(!Existing { map: 7, ..reset }.is_strict(now, 8), "another map");
        let report = Existing { map: 7, ..Existing::new(ExistingConnections::Report, now) };
        assert!(!report.is_strict(now, 7));
        assert!(Existing { nothing_older: true, ..report }.is_strict(now, 7));
    }

    #[test]
    fn the_state_file_is_read_back() {
        let until = "2026-01-01T00:10:00Z".parse().unwrap();
        let since = "2026-01-01T00:00:00Z".parse().unwrap();
        let treatment = Treatment::KeepUntil { until };
        let existing = Existing { treatment, since, nothing_older: false, map: 7 };
        let text = serde_json::to_string(&existing).unwrap();
        assert_eq!(
            text,
            r#"{"mode":"KEEP_UNTIL","until":"2026-01-01T00:10:00Z","since":"2026-01-01T00:00:00Z","map":7}"#
        );
        assert_eq!(serde_json::from_str::<Existing>(&text).unwrap(), existing);
    }
}
