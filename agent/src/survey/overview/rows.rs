//! The tables of an overview.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Serialize;

use super::{Node, WantedPod};
use crate::{
    admin::{AgentStatus, GatewayStatus, Stage, WorkloadStatus},
    node::workload::Origin,
    survey::{Answer, RolePod},
};

/// A node and its agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeRow {
    /// The node.
    pub node: String,
    /// Whether its kubelet is there; absent where nodes cannot be read.
    pub node_ready: Option<bool>,
    /// The pod of the agent that has the node: of two, the one that answers for it.
    pub agent: Option<String>,
    /// Its readiness probe passes.
    pub ready: bool,
    /// It was told to end, and no other agent is there.
    pub terminating: bool,
    /// It said how it stands.
    pub answered: bool,
    /// Its version.
    pub version: Option<String>,
    /// Another agent is about to take over, or ends.
    pub second: Option<String>,
    /// What it has enrolled.
    pub enrolled: usize,
    /// Pods there that are meant to be captured and are not.
    pub uncaptured: usize,
    /// What is enrolled and has a lock that does not hold.
    pub open: usize,
    /// Connections that were open to the outside though neither captured nor permitted, since the agent's start.
    pub escaped: u64,
    /// What stands in its way, by its own word.
    pub problems: usize,
    /// How far its agent is, by its own word.
    pub stage: Option<Stage>,
}

impl NodeRow {
    /// How its agent stands, in a word or two; in capitals where something is wrong.
    pub fn state(&self) -> &'static str {
        match (&self.agent, self) {
            (None, Self { node_ready: Some(false), .. }) => "NODE DOWN",
            (None, _) => "NO AGENT",
            (_, Self { node_ready: Some(false), .. }) => "NODE DOWN",
            (_, Self { stage: Some(Stage::Removed), .. }) => "REMOVED",
            (_, Self { ready: false, .. }) => "NOT READY",
            (_, Self { answered: false, .. }) => "SILENT",
            (_, Self { terminating: true, .. }) => "ENDING",
            (_, Self { second: Some(_), .. }) => "handover",
            _ => "ready",
        }
    }
}

/// Every node that is there, and every node that an agent is on.
pub(super) fn nodes(nodes: &[Node], agents: &[Answer<AgentStatus>]) -> Vec<NodeRow> {
    let mut rows: BTreeMap<&str, NodeRow> = BTreeMap::new();
    for node in nodes {
        rows.insert(&node.name, empty(&node.name, Some(node.ready)));
    }
    // Those that say most of a node last: they are what is shown of it.
    let mut agents: Vec<_> =
        agents.iter().filter_map(|agent| Some((agent.pod.node.as_deref()?, agent))).collect();
    agents.sort_by_key(|(_, Answer { pod, said })| {
        (said.is_ok(), answers_for_itself(pod, said), pod.is_well())
    });
    for (node, Answer { pod, said }) in agents {
        let row = rows.entry(node).or_insert_with(|| empty(node, None));
        *row = NodeRow {
            agent: Some(pod.name.clone()),
            second: row.agent.take(),
            ready: pod.ready,
            terminating: pod.terminating,
            ..empty(node, row.node_ready)
        };
        if let Ok(status) = said {
            row.answered = true;
            row.stage = Some(status.stage);
            row.version = Some(status.role.version.clone());
            row.enrolled = status.workloads.len();
            row.open = status.workloads.iter().filter(|workload| workload.locks.open().is_some()).count();
            row.escaped = escaped(status);
            row.problems = super::problems::of_agent(status).count();
        }
    }
    rows.into_values().collect()
}

/// While one agent takes over, both pods' answers come from the one that has the role.
fn answers_for_itself(pod: &RolePod, said: &Result<AgentStatus, String>) -> bool {
    said.as_ref().is_ok_and(|status| status.role.pod.as_ref() == Some(&pod.name))
}

fn empty(node: &str, node_ready: Option<bool>) -> NodeRow {
    NodeRow {
        node: node.to_owned(),
        node_ready,
        agent: None,
        ready: false,
        terminating: false,
        answered: false,
        version: None,
        second: None,
        enrolled: 0,
        uncaptured: 0,
        open: 0,
        escaped: 0,
        problems: 0,
        stage: None,
    }
}

/// Since the agent's start: also of workloads that are gone.
fn escaped(status: &AgentStatus) -> u64 {
    let of_workloads = status.workloads.iter().map(|workload| workload.sockets.escaped).sum();
    status.counters.get("escaped").copied().unwrap_or_default().max(of_workloads)
}

/// A gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GatewayRow {
    /// Its pod.
    pub pod: String,
    /// Where it is.
    pub node: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// Its readiness probe passes.
    pub ready: bool,
    /// It was told to end: what it has goes on, nothing new.
    pub draining: bool,
    /// Version of its configuration, counted by itself.
    pub config_version: Option<u64>,
    /// Objects that are in force there.
    pub objects: Option<usize>,
    /// Tunnel connections that agents have to it; absent where its address is not known.
    pub tunnels: Option<usize>,
}

impl GatewayRow {
    /// How it stands, in a word or two; in capitals where something is wrong.
    pub fn state(&self) -> &'static str {
        match (self.draining, self.ready) {
            (true, _) => "draining",
            (false, true) => "ready",
            (false, false) => "NOT READY",
        }
    }
}

pub(super) fn gateways(
    gateways: &[Answer<GatewayStatus>],
    agents: &[Answer<AgentStatus>],
) -> Vec<GatewayRow> {
    let tunnels = |address: IpAddr| {
        // Two agents of a node tell the same while one takes over.
        let nodes: BTreeMap<_, _> = agents
            .iter()
            .filter_map(|Answer { pod, said }| {
                let to_it =
                    said.as_ref().ok()?.gateways.iter().filter(|gateway| gateway.address.ip() == address);
                Some((&pod.node, to_it.map(|gateway| gateway.connections).sum::<usize>()))
            })
            .collect();
        nodes.into_values().sum()
    };
    let rows = gateways.iter().map(|Answer { pod, said }| {
        let said = said.as_ref().ok();
        GatewayRow {
            pod: pod.name.clone(),
            node: pod.node.clone(),
            version: said.map(|status| status.role.version.clone()),
            ready: pod.ready,
            draining: pod.terminating,
            config_version: said.map(|status| status.config_version),
            objects: said.map(|status| status.report.objects),
            tunnels: pod.address.map(tunnels),
        }
    });
    rows.collect()
}

/// Something that an agent has enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EnrolledRow {
    /// Its namespace.
    pub namespace: String,
    /// Its pod, or its cgroup where it is none.
    pub name: String,
    /// Where it is.
    pub node: String,
    /// Its identity.
    pub identity: String,
    /// Why a lock does not hold; absent: all do.
    pub open: Option<String>,
    /// Connections that were open to the outside though neither captured nor permitted.
    pub escaped: u64,
}

pub(super) fn enrolled(agents: &[Answer<AgentStatus>]) -> Vec<EnrolledRow> {
    let mut rows: BTreeMap<(String, String, String), EnrolledRow> = BTreeMap::new();
    for Answer { pod, said } in agents {
        let (Ok(status), Some(node)) = (said, &pod.node) else { continue };
        for WorkloadStatus { workload, locks, sockets, .. } in &status.workloads {
            let namespace = workload.identity.namespace().to_owned();
            let name = match &workload.origin {
                Origin::Pod { name, .. } => name.clone(),
                Origin::Exec | Origin::Hand | Origin::Binding(_) => workload.cgroup.display().to_string(),
            };
            let row = EnrolledRow {
                namespace: namespace.clone(),
                name: name.clone(),
                node: node.clone(),
                identity: workload.identity.to_string(),
                open: locks.open().map(ToOwned::to_owned),
                escaped: sockets.escaped,
            };
            rows.insert((namespace, name, node.clone()), row);
        }
    }
    rows.into_values().collect()
}

/// A pod that is meant to be captured and is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UncapturedRow {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Where it is.
    pub node: String,
    /// Why.
    pub why: String,
}

/// What a condition says is only as good as the agent that wrote it: without one, nobody keeps it true.
pub(super) fn uncaptured(wanted: &[WantedPod], nodes: &[NodeRow]) -> Vec<UncapturedRow> {
    let rows = wanted.iter().filter_map(|pod| {
        let agent = nodes.iter().find(|row| row.node == pod.node);
        let why = match (&pod.captured, agent) {
            (Some((false, why)), _) => why.clone(),
            (None, Some(row)) if row.agent.is_some() => "the agent has not said anything of it".to_owned(),
            (None, _) => "no agent is on its node".to_owned(),
            (Some((true, _)), Some(row)) if row.agent.is_some() => return None,
            (Some((true, _)), _) => "no agent is on its node any more: what it dials is refused".to_owned(),
        };
        Some(UncapturedRow {
            namespace: pod.namespace.clone(),
            pod: pod.name.clone(),
            node: pod.node.clone(),
            why,
        })
    });
    rows.collect()
}
