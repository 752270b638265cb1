//! Which locks hold for a workload: part of `egret status` and `egret doctor`. `egret verify-bypass` is the proof.

use serde::{Deserialize, Serialize};

/// Whether a lock holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "why", rename_all = "snake_case")]
pub enum Lock {
    /// It does.
    Holds,
    /// There is nothing to lock: no way leads out.
    Closed,
    /// It does not, or nobody knows; why.
    Open(String),
}

/// The locks of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Locks {
    /// The hooks that capture connections.
    pub capture: Lock,
    /// The packets of its sockets.
    pub backstop: Lock,
    /// The host's side of its links.
    pub link: Lock,
}

impl Locks {
    /// Why a lock does not hold, the first that there is.
    pub fn open(&self) -> Option<&str> {
        [&self.capture, &self.backstop, &self.link].into_iter().find_map(|lock| match lock {
            Lock::Open(why) => Some(why.as_str()),
            _ => None,
        })
    }
}

/// For people: `capture, backstop, no link (host network)`.
impl std::fmt::Display for Locks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let one = |name: &str, lock: &Lock| match lock {
            Lock::Holds => name.to_owned(),
            Lock::Closed => format!("{name} closed"),
            Lock::Open(why) => format!("no {name} ({why})"),
        };
        write!(
            f,
            "{}, {}, {}",
            one("capture", &self.capture),
            one("backstop", &self.backstop),
            one("link", &self.link)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_hold_says_why() {
        let mut locks = Locks { capture: Lock::Holds, backstop: Lock::Holds, link: Lock::Closed };
        assert_eq!((locks.to_string().as_str(), locks.open()), ("capture, backstop, link closed", None));
        locks.link = Lock::Open("host network".to_owned());
        assert_eq!(locks.to_string(), "capture, backstop, no link (host network)");
        assert_eq!(locks.open(), Some("host network"));
        let json = serde_json::to_value(&locks).unwrap();
        assert_eq!(json["capture"]["state"], "holds");
        assert_eq!(json["link"]["why"], "host network");
        assert_eq!(serde_json::from_value::<Locks>(json).unwrap(), locks);
    }
}
