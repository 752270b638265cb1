//! Whether a role is ready, and what is in the way: asked by `egret ready`, by the supervisor, and shown by `egret status`.
//!
//! The role says what it waits for; what is read from a cluster says so itself (`kubernetes::standing`). Serves nothing: that is
//! `server`.

use std::{collections::BTreeMap, fmt, sync::Arc};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::kubernetes::standing::Standing;

/// How far a role is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It does not serve yet.
    Starting,
    /// It does what it is there for.
    #[default]
    Serving,
    /// Another process has its role; what it carries goes on until it ends.
    TakenOver,
    /// It was told to end, and finishes what it has.
    Draining,
    /// It has taken away everything it made here, and makes nothing any more: Egret is being removed.
    Removed,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::TakenOver => "taken over by another process",
            Self::Draining => "draining",
            Self::Removed => "removed",
        })
    }
}

/// The answer to `/ready`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// It may be relied on.
    pub ready: bool,
    /// Who answers: while an agent takes over from another, there are two.
    pub pid: u32,
    /// How far it is.
    #[serde(default)]
    pub stage: Stage,
    /// What is in the way, or is not as it should be, one sentence each.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// What a role says of its readiness. Cheap to clone; a new one is ready.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    said: Arc<Mutex<Said>>,
    /// What is read from the cluster.
    standing: Option<Standing>,
}

#[derive(Debug, Default)]
struct Said {
    stage: Stage,
    waits: BTreeMap<&'static str, String>,
}

impl Readiness {
    /// Of a role that has yet to start, and needs what `standing` speaks of.
    pub fn starting(standing: Standing) -> Self {
        let readiness = Self { standing: Some(standing), ..Self::default() };
        readiness.enter(Stage::Starting);
        readiness
    }

    /// The role is so far now.
    pub fn enter(&self, stage: Stage) {
        self.said.lock().stage = stage;
    }

    /// `part` is in the way. Said in the log when it is news.
    pub fn waits(&self, part: &'static str, why: impl Into<String>) {
        let why = why.into();
        let before = self.said.lock().waits.insert(part, why.clone());
        if before.as_ref() != Some(&why) {
            tracing::error!("{part}: {why}");
        }
    }

    /// `part` is not in the way any more.
    pub fn goes_on(&self, part: &'static str) {
        if self.said.lock().waits.remove(part).is_some() {
            tracing::info!("{part}: goes on");
        }
    }

    /// Everything that is read from the cluster has been read once.
    pub fn is_read(&self) -> bool {
        self.standing.as_ref().is_none_or(Standing::is_complete)
    }

    /// What the role waits for, one sentence each.
    pub fn waiting(&self) -> Vec<String> {
        self.said.lock().waits.iter().map(|(part, why)| format!("{part}: {why}")).collect()
    }

    /// How it is now.
    pub fn ask(&self) -> Ready {
        let mut problems = self.waiting();
        let stage = self.said.lock().stage;
        let is_free = problems.is_empty();
        problems.extend(self.standing.iter().flat_map(Standing::problems));
        let ready = match stage {
            Stage::Starting | Stage::Draining | Stage::Removed => false,
            Stage::Serving => is_free && self.is_read(),
            // Whoever has the role answers for the rest.
            Stage::TakenOver => true,
        };
        Ready { ready, pid: std::process::id(), stage, problems }
    }
}

#[cfg(test)]
mod tests {
    use super::{Readiness, Ready, Stage};
    use crate::kubernetes::standing::Standing;

    #[test]
    fn ready_is_who_serves_and_has_nothing_in_the_way() {
        assert!(Readiness::default().ask().ready, "a role that answers, where nothing else is asked");
        let readiness = Readiness::starting(Standing::default());
        assert!(!readiness.ask().ready);
        readiness.waits("capture", "this kernel has no BTF");
        assert_eq!(readiness.ask().problems, ["capture: this kernel has no BTF"]);
        readiness.enter(Stage::Serving);
        assert!(!readiness.ask().ready);
        readiness.goes_on("capture");
        assert!(readiness.ask().ready);
        readiness.enter(Stage::TakenOver);
        assert!(readiness.ask().ready, "an update goes on when both are");
        readiness.enter(Stage::Removed);
        assert!(!readiness.ask().ready);
    }

    #[test]
    fn what_was_never_read_is_in_the_way_and_what_was_is_not() {
        let standing = Standing::default();
        let readiness = Readiness::starting(standing.clone());
        readiness.enter(Stage::Serving);
        standing.expect("pods");
        assert!(!readiness.ask().ready);
        standing.is_read("pods");
        standing.fails("pods", "gone".to_owned());
        let asked = readiness.ask();
        assert!(asked.ready && asked.problems.len() == 1, "{asked:?}");
    }

    #[test]
    fn answers_of_older_versions_are_understood() {
        let ready: Ready = serde_json::from_str(r#"{"ready":true,"pid":7}"#).unwrap();
        assert_eq!((ready.ready, ready.stage), (true, Stage::Serving));
    }
}
