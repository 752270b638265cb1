//! `egret doctor`: probes what Egret needs of this machine. Called by `cli::doctor`.
//!
//! Probes, and does not guess from versions: programs are loaded, namespaces entered, ports bound, sockets asked; what was
//! made for a probe is gone when it ends. Changes nothing. Each family of checks is a file below; reading and judging
//! are apart, so that the judgement is tested without the machine.

mod clock;
mod hooks;
mod instance;
mod kernel;
mod network;
mod privileges;

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::app::run_dir::RunDir;

/// What to examine.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Run directory of the instance.
    pub run_dir: RunDir,
    /// Where its gateway takes tunnels.
    pub hbone_address: SocketAddr,
    /// A directory of YAML files to be validated, too.
    pub config: Option<PathBuf>,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be, or for information.
    Ok,
    /// Egret works, with something to know.
    Warning,
    /// Egret does not work, or not as promised.
    Error,
}

impl Status {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was examined, such as `cgroup` or `program egret_connect4`.
    pub name: String,
    /// How it is.
    pub status: Status,
    /// What was found.
    pub finding: String,
    /// What to do; always there when the status is not ok.
    pub remedy: Option<String>,
}

impl Check {
    /// As it should be.
    pub fn ok(name: impl Into<String>, finding: impl Into<String>) -> Self {
        Self { name: name.into(), status: Status::Ok, finding: finding.into(), remedy: None }
    }

    /// Something to know.
    pub fn warning(name: impl Into<String>, finding: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status: Status::Warning, remedy: Some(remedy.into()), ..Self::ok(name, finding) }
    }

    /// Something that has to be mended.
    pub fn error(name: impl Into<String>, finding: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { status: Status::Error, remedy: Some(remedy.into()), ..Self::ok(name, finding) }
    }
}

/// All findings: the JSON of `egret doctor -o json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// In the order in which they should be mended.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether anything has to be mended.
    pub fn has_errors(&self) -> bool {
        self.checks.iter().any(|check| check.status == Status::Error)
    }
}

/// Runs every check.
pub async fn examine(subject: &Subject) -> Report {
    let agent = instance::agent_status(&subject.run_dir).await;
    let mut checks = privileges::checks();
    checks.extend(kernel::checks());
    checks.extend(hooks::checks(&subject.run_dir.instance()));
    checks.extend(network::checks(subject, agent.as_ref()));
    checks.extend(clock::checks());
    checks.extend(instance::checks(&subject.run_dir).await);
    checks.extend(agent.as_ref().map(|agent| instance::workloads(&agent.workloads)));
    checks.extend(agent.as_ref().map(|agent| instance::escapes(&agent.workloads)));
    checks.extend(agent.as_ref().map(|agent| instance::events(&agent.counters)));
    checks.extend(subject.config.as_deref().map(instance::configuration));
    Report { checks }
}

#[cfg(test)]
mod tests {
    use super::{Check, Report};

    #[test]
    fn only_errors_fail() {
        let mut report = Report { checks: vec![Check::ok("a", "b"), Check::warning("c", "d", "e")] };
        assert!(!report.has_errors());
        report.checks.push(Check::error("f", "g", "h"));
        assert!(report.has_errors());
    }
}
