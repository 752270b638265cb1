//! What all of a cluster's Egret says, put together: for `egret status`, `flows`, `top`, `doctor` and `ui` from outside of the cluster. What
//! the page of `egret ui` shows is put together here for one machine, too.
//!
//! Pure: `kubernetes::ask` asks, this merges, `cli::cluster` shows. What nobody could say is kept, and said.

pub mod activity;
pub mod findings;
pub mod flows;
pub mod health;
pub mod hits;
pub mod map;
pub mod overview;
pub(crate) mod selection;

use std::{fmt, net::IpAddr};

use serde::Serialize;

/// A part of Egret that runs as pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// One per node.
    Agent,
    /// Some, shared.
    Gateway,
    /// The certificate authority.
    Ca,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Agent, Self::Gateway, Self::Ca];

    /// As in the label `app.kubernetes.io/component`; also the name of its container and of its verb.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Gateway => "gateway",
            Self::Ca => "ca",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A pod of Egret's, as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RolePod {
    /// What it is.
    pub role: Role,
    /// Its name; its namespace is Egret's own.
    pub name: String,
    /// Where it runs; absent: nowhere yet.
    pub node: Option<String>,
    /// Its address; of an agent the node's.
    pub address: Option<IpAddr>,
    /// Its container runs, so that it can be asked.
    pub running: bool,
    /// Its readiness probe passes.
    pub ready: bool,
    /// It was told to end.
    pub terminating: bool,
    /// Why it does not run or is not ready, as far as the API server knows.
    pub trouble: Option<String>,
}

impl RolePod {
    /// It serves, and goes on to.
    pub fn is_well(&self) -> bool {
        self.ready && !self.terminating
    }
}

/// What a pod said, or why it did not.
#[derive(Clone, Debug)]
pub struct Answer<T> {
    /// Who was asked.
    pub pod: RolePod,
    /// The answer.
    pub said: Result<T, String>,
}

/// A pod that did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Silent {
    /// What it is.
    pub role: Role,
    /// Its name.
    pub pod: String,
    /// Where it is.
    pub node: Option<String>,
    /// Why.
    pub why: String,
}

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, pod, node, why } = self;
        let node = node.as_deref().unwrap_or("no node");
        write!(f, "{role} {pod} on {node} does not answer: {why}")
    }
}

/// Who did not answer.
pub fn silent<T>(answers: &[Answer<T>]) -> impl Iterator<Item = Silent> + '_ {
    answers.iter().filter_map(|Answer { pod, said }| {
        let why = said.as_ref().err()?.clone();
        Some(Silent { role: pod.role, pod: pod.name.clone(), node: pod.node.clone(), why })
    })
}

#[cfg(test)]
mod testing {
    //! Made-up pods.

    use super::{Role, RolePod};

    pub(super) fn pod(role: Role, name: &str, node: &str) -> RolePod {
        RolePod {
            role,
            name: name.to_owned(),
            node: Some(node.to_owned()),
            address: None,
            running: true,
            ready: true,
            terminating: false,
            trouble: None,
        }
    }
}
