//! The clock. Certificates are valid for hours; a clock that is behind or ahead makes every tunnel fail.

use std::{
    fs,
    time::{Duration, SystemTime},
};

use super::Check;

/// A clock later than this is as wrong as one that is behind: 2100-01-01T00:00:00Z, 47,482 days after the epoch.
const LATEST: Duration = Duration::from_hours(47_482 * 24);

/// Compares now with when this binary was written.
pub(super) fn checks() -> Vec<Check> {
    let written = std::env::current_exe().and_then(fs::metadata).and_then(|file| file.modified());
    vec![judge(SystemTime::now(), written.unwrap_or(SystemTime::UNIX_EPOCH))]
}

fn judge(now: SystemTime, written: SystemTime) -> Check {
    const NAME: &str = "clock";
    const REMEDY: &str = "set the clock (timedatectl, chronyc makestep) and keep it with NTP";
    let shown =
        jiff::Timestamp::try_from(now).map_or_else(|_| "out of range".to_owned(), |t| format!("{t:.0}"));
    if now < written {
        let finding =
            format!("{shown}, which is before this binary was written: certificates will not be valid yet");
        return Check::error(NAME, finding, REMEDY);
    }
    if now > SystemTime::UNIX_EPOCH + LATEST {
        return Check::error(NAME, format!("{shown}: certificates of servers will have expired"), REMEDY);
    }
    Check::ok(NAME, shown)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{LATEST, judge};
    use crate::doctor::Status;

    #[test]
    fn a_clock_behind_or_far_ahead_is_an_error() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let written = at(1_700_000_000);
        assert_eq!(judge(at(1_700_000_001), written).status, Status::Ok);
        assert_eq!(judge(at(1_700_000_001), written).finding, "2023-11-14T22:13:21Z");
        assert_eq!(judge(at(86_400), written).status, Status::Error);
        assert_eq!(judge(at(LATEST.as_secs() + 1), written).status, Status::Error);
    }
}
