//! The state of a cluster's Egret on one screen: `egret status` from outside of it.
//!
//! `problems` says what is wrong with what is gathered here.

pub(super) mod problems;
mod rows;
#[cfg(test)]
pub(crate) mod tests;

use std::{cmp::Reverse, collections::BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use super::{Answer, RolePod, Silent, silent};
use crate::{
    admin::{AgentStatus, CaStatus, GatewayStatus},
    source::report,
};

pub use problems::Problem;
pub use rows::{EnrolledRow, GatewayRow, NodeRow, UncapturedRow};

/// A node, as the API server has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its kubelet says so.
    pub ready: bool,
}

/// A pod that is meant to be captured, or whose label means nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub node: String,
    /// What an agent said of it: captured or not, and why.
    pub captured: Option<(bool, String)>,
    /// A label that means nothing, in a sentence.
    pub odd: Option<String>,
}

/// What the API server says of the cluster. What could not be read is a sentence.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Its nodes.
    pub nodes: Result<Vec<Node>, String>,
    /// The pods that are meant to be captured, and those whose label means nothing.
    pub wanted: Result<Vec<WantedPod>, String>,
    /// When the root certificate of the CA ends; absent where the CA is not ours.
    pub root_ends: Result<Option<Timestamp>, String>,
}

/// Everything that was asked.
#[derive(Debug)]
pub struct Asked {
    /// Agents.
    pub agents: Vec<Answer<AgentStatus>>,
    /// Gateways.
    pub gateways: Vec<Answer<GatewayStatus>>,
    /// CAs.
    pub authorities: Vec<Answer<CaStatus>>,
    /// The cluster.
    pub scene: Scene,
    /// The time.
    pub now: Timestamp,
}

/// The JSON of `egret status -o json` on a cluster.
#[derive(Clone, Debug, Serialize)]
pub struct Overview {
    /// Where Egret is.
    pub namespace: String,
    /// The configuration that the gateways have; absent when none answered.
    pub configuration: Option<Configuration>,
    /// All certificates.
    pub certificates: Certificates,
    /// The CA's pods.
    pub authorities: Vec<RolePod>,
    /// Every node that is there, or has an agent.
    pub nodes: Vec<NodeRow>,
    /// Every pod of a gateway.
    pub gateways: Vec<GatewayRow>,
    /// Pods that agents have enrolled, and whatever else of a node is.
    pub enrolled: Vec<EnrolledRow>,
    /// Pods that are meant to be captured and are not.
    pub uncaptured: Vec<UncapturedRow>,
    /// What is wrong, the worst first.
    pub problems: Vec<Problem>,
    /// Whoever did not answer.
    pub silent: Vec<Silent>,
    /// What could not be looked at, so that this is not the whole.
    pub unseen: Vec<String>,
}

impl Overview {
    /// Whether anyone answered.
    pub fn anyone_answered(&self) -> bool {
        self.configuration.is_some() || self.nodes.iter().any(|node| node.answered)
    }
}

/// The configuration in force.
#[derive(Clone, Debug, Serialize)]
pub struct Configuration {
    /// Objects in force.
    pub objects: usize,
    /// Objects that are refused.
    pub errors: usize,
    /// Objects in force with something to know.
    pub warnings: usize,
    /// Where certificates are valid.
    pub trust_domain: String,
    /// What happens to hosts that nobody registered.
    pub outbound_traffic_policy: String,
    /// What happens while no agent runs.
    pub on_agent_down: String,
}

/// The certificates that agents and gateways hold.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Certificates {
    /// When the CA's own ends, where it is known.
    pub root_ends: Option<Timestamp>,
    /// How many are valid.
    pub valid: usize,
    /// When the first of them ends.
    pub first_ends: Option<Timestamp>,
    /// Whose that is.
    pub first_to_end: Option<String>,
    /// How many should have been renewed some time ago.
    pub overdue: usize,
    /// How many identities have none.
    pub failed: usize,
}

/// Puts it together.
pub fn overview(namespace: &str, asked: &Asked) -> Overview {
    let Scene { nodes, wanted, root_ends } = &asked.scene;
    let unseen = [
        nodes.as_ref().err().map(|why| format!("nodes without an agent are not seen: {why}")),
        wanted.as_ref().err().map(|why| format!("pods that are not captured are not seen: {why}")),
        root_ends.as_ref().err().map(|why| format!("the end of the CA's certificate is not seen: {why}")),
    ];
    let mut rows = rows::nodes(nodes.as_deref().unwrap_or_default(), &asked.agents);
    let uncaptured = rows::uncaptured(wanted.as_deref().unwrap_or_default(), &rows);
    for row in &mut rows {
        row.uncaptured = uncaptured.iter().filter(|pod| pod.node == row.node).count();
    }
    let mut problems = problems::all(asked, &rows);
    problems.sort_by_key(|problem| Reverse(problem.severity));
    Overview {
        namespace: namespace.to_owned(),
        configuration: configuration(&asked.gateways),
        certificates: certificates(asked),
        authorities: asked.authorities.iter().map(|answer| answer.pod.clone()).collect(),
        gateways: rows::gateways(&asked.gateways, &asked.agents),
        enrolled: rows::enrolled(&asked.agents),
        uncaptured,
        problems,
        silent: silent(&asked.agents)
            .chain(silent(&asked.gateways))
            .chain(silent(&asked.authorities))
            .collect(),
        unseen: unseen.into_iter().flatten().collect(),
        nodes: rows,
    }
}

/// Of the gateway that has most in force: they all read the same, some a moment earlier.
fn configuration(gateways: &[Answer<GatewayStatus>]) -> Option<Configuration> {
    let answered = gateways.iter().filter_map(|answer| answer.said.as_ref().ok());
    let gateway = answered.max_by_key(|gateway| gateway.report.objects)?;
    let count = |severity| {
        let problems = gateway.report.problems.iter().filter(|problem| problem.severity == severity);
        // An object is refused once, whatever the number of its faults.
        problems.map(|problem| (&problem.file, problem.document)).collect::<BTreeSet<_>>().len()
    };
    Some(Configuration {
        objects: gateway.report.objects,
        errors: count(report::Severity::Error),
        warnings: count(report::Severity::Warning),
        trust_domain: gateway.trust_domain.clone(),
        outbound_traffic_policy: gateway.outbound_traffic_policy.clone(),
        on_agent_down: gateway.on_agent_down.clone(),
    })
}

fn certificates(asked: &Asked) -> Certificates {
    let mut all = Certificates {
        root_ends: asked.scene.root_ends.as_ref().ok().copied().flatten(),
        ..Certificates::default()
    };
    let agents = asked.agents.iter().filter_map(|answer| Some(&answer.said.as_ref().ok()?.role));
    let gateways = asked.gateways.iter().filter_map(|answer| Some(&answer.said.as_ref().ok()?.role));
    for status in agents.chain(gateways).map(|role| &role.certificates) {
        all.valid += status.valid;
        all.overdue += status.overdue.len();
        all.failed += status.failed.len();
        if let Some((identity, end)) = &status.first_to_end
            && all.first_ends.is_none_or(|first| *end < first)
        {
            all.first_ends = Some(*end);
            all.first_to_end = Some(identity.to_string());
        }
    }
    all
}
