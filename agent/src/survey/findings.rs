//! What `egret doctor` found on every node: each finding once, with the nodes that have it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Answer, Role, RolePod, Silent, overview::Scene, silent};
use crate::{
    admin::AgentStatus,
    doctor::{Check, Report, Status},
};

/// A finding, and where it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was found.
    #[serde(flatten)]
    pub check: Check,
    /// The nodes that have it; none: it is of the whole cluster.
    pub nodes: Vec<String>,
}

/// The JSON of `egret doctor -o json` on a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// Those of the cluster first, then those of nodes, in the order in which they should be mended.
    pub checks: Vec<Finding>,
    /// Nodes that could not be examined.
    pub silent: Vec<Silent>,
    /// How many nodes were.
    pub examined: usize,
}

impl Findings {
    /// Whether anything has to be mended.
    pub fn has_errors(&self) -> bool {
        self.count(Status::Error) > 0
    }

    /// How many findings are like this.
    pub fn count(&self, status: Status) -> usize {
        self.checks.iter().filter(|finding| finding.check.status == status).count()
    }
}

/// Merges the findings of the cluster and of its nodes.
pub fn merge(cluster: Vec<Check>, nodes: &[Answer<Report>]) -> Findings {
    let mut checks: Vec<Finding> =
        cluster.into_iter().map(|check| Finding { check, nodes: Vec::new() }).collect();
    let of_cluster = checks.len();
    let mut examined = Vec::new();
    for Answer { pod, said } in nodes {
        let (Ok(report), Some(node)) = (said, &pod.node) else { continue };
        // An agent that takes over is the second of its node.
        if examined.contains(node) {
            continue;
        }
        examined.push(node.clone());
        // A finding that is new comes after the one that came before it, so that the order of mending is kept.
        let mut after = of_cluster;
        for check in &report.checks {
            if let Some(known) = (of_cluster..checks.len()).find(|&at| checks[at].check == *check) {
                checks[known].nodes.push(node.clone());
                after = after.max(known + 1);
            } else {
                checks.insert(after, Finding { check: check.clone(), nodes: vec![node.clone()] });
                after += 1;
            }
        }
    }
    Findings { checks, silent: silent(nodes).collect(), examined: examined.len() }
}

/// What the agents together say of the cluster: whether one is on every node, and of which version.
pub fn of_cluster(pods: &[RolePod], agents: &[Answer<AgentStatus>], scene: &Scene) -> Vec<Check> {
    vec![coverage(pods, scene), versions(agents), ranges(agents)]
}

fn coverage(pods: &[RolePod], scene: &Scene) -> Check {
    const NAME: &str = "agents";
    let nodes = match &scene.nodes {
        Ok(nodes) => nodes,
        Err(why) => {
            let finding = format!("whether one is on every node is not known: {why}");
            return Check::warning(NAME, finding, "allow to list nodes, or ask somebody who may");
        }
    };
    let well = |node: &str| {
        pods.iter().any(|pod| pod.role == Role::Agent && pod.ready && pod.node.as_deref() == Some(node))
    };
    let without: Vec<_> = nodes.iter().map(|node| node.name.as_str()).filter(|node| !well(node)).collect();
    if without.is_empty() {
        return Check::ok(NAME, format!("one is ready on every node ({})", nodes.len()));
    }
    Check::error(
        NAME,
        format!("none is ready on {} of {} nodes: {}", without.len(), nodes.len(), without.join(", ")),
        "kubectl describe daemonset egret-agent says why: tolerations, requirements, image",
    )
}

fn versions(agents: &[Answer<AgentStatus>]) -> Check {
    const NAME: &str = "versions";
    let ours = env!("CARGO_PKG_VERSION");
    let mut versions: BTreeMap<&str, usize> = BTreeMap::new();
    for status in agents.iter().filter_map(|answer| answer.said.as_ref().ok()) {
        let version = status.role.version.as_str();
        *versions.entry(if version.is_empty() { "unknown" } else { version }).or_default() += 1;
    }
    let said: Vec<_> = versions.iter().map(|(version, count)| format!("{version} on {count}")).collect();
    match versions.len() {
        0 => Check::warning(NAME, "no agent says which it is of", "see why the agents do not answer"),
        1 if versions.contains_key(ours) => Check::ok(NAME, format!("all agents, and this program: {ours}")),
        1 => Check::warning(
            NAME,
            format!("agents: {}; this program: {ours}", said.join(", ")),
            "use the program of the same version, lest it does not understand all answers",
        ),
        _ => Check::warning(
            NAME,
            format!("agents are of several: {}", said.join(", ")),
            "an update runs, or has stopped half-way: kubectl rollout status daemonset egret-agent",
        ),
    }
}

/// What the agents found to be cluster-internal, so that it is reached directly: each range once.
fn ranges(agents: &[Answer<AgentStatus>]) -> Check {
    const NAME: &str = "cluster ranges";
    let said: Vec<_> =
        agents.iter().filter_map(|answer| answer.said.as_ref().ok()?.ranges.as_ref()).collect();
    if said.is_empty() {
        return Check::warning(NAME, "no agent says what it found", "see why the agents do not answer");
    }
    let found: BTreeSet<_> = said.iter().flat_map(|ranges| &ranges.found).collect();
    let found: Vec<_> = found.into_iter().map(|found| format!("{} ({})", found.range, found.from)).collect();
    let problems: BTreeSet<&str> =
        said.iter().flat_map(|ranges| ranges.problems.iter().map(String::as_str)).collect();
    let found = if found.is_empty() { "none found".to_owned() } else { found.join(", ") };
    if problems.is_empty() {
        return Check::ok(NAME, format!("reached without the gateway: {found}"));
    }
    Check::warning(
        NAME,
        format!("{found}; {}", problems.into_iter().collect::<Vec<_>>().join("; ")),
        "name what is missing in the chart's value clusterRanges",
    )
}

#[cfg(test)]
mod tests {
    use super::{super::testing::pod, coverage, merge};
    use crate::{
        doctor::{Check, Report, Status},
        survey::{
            Answer, Role,
            overview::{Node, Scene},
        },
    };

    #[test]
    fn nodes_without_a_ready_agent_are_named() {
        let nodes = ["a", "b"].map(|name| Node { name: name.to_owned(), ready: true });
        let mut scene = Scene { nodes: Ok(nodes.to_vec()), wanted: Ok(Vec::new()), root_ends: Ok(None) };
        let (a, b) = (pod(Role::Agent, "agent-a", "a"), pod(Role::Agent, "agent-b", "b"));
        assert_eq!(coverage(&[a.clone(), b.clone()], &scene).status, Status::Ok);
        let unready = crate::survey::RolePod { ready: false, ..b };
        let check = coverage(&[a.clone(), unready, pod(Role::Gateway, "gateway", "b")], &scene);
        assert_eq!(
            (check.status, check.finding.as_str()),
            (Status::Error, "none is ready on 1 of 2 nodes: b")
        );
        scene.nodes = Err("forbidden".to_owned());
        assert_eq!(coverage(&[a], &scene).status, Status::Warning);
    }

    fn answer(node: &str, checks: Vec<Check>) -> Answer<Report> {
        Answer { pod: pod(Role::Agent, &format!("agent-{node}"), node), said: Ok(Report { checks }) }
    }

    #[test]
    fn a_finding_is_said_once_with_its_nodes_in_the_order_of_mending() {
        let (root, old, new) = (
            Check::ok("root", "euid 0"),
            Check::error("btf", "none", "another kernel"),
            Check::ok("btf", "there"),
        );
        let last = Check::warning("clock", "off", "ntp");
        let nodes = [
            answer("a", vec![root.clone(), new.clone(), last.clone()]),
            answer("b", vec![root.clone(), old.clone(), last.clone()]),
            answer("a", vec![root.clone(), new.clone(), last.clone()]),
            Answer { said: Err("gone".to_owned()), ..answer("c", Vec::new()) },
        ];
        let merged = merge(vec![Check::ok("definitions", "there")], &nodes);
        let found: Vec<_> = merged
            .checks
            .iter()
            .map(|f| (f.check.name.as_str(), f.check.finding.as_str(), f.nodes.join(",")))
            .collect();
        assert_eq!(
            found,
            [
                ("definitions", "there", String::new()),
                ("root", "euid 0", "a,b".to_owned()),
                ("btf", "none", "b".to_owned()),
                ("btf", "there", "a".to_owned()),
                ("clock", "off", "a,b".to_owned()),
            ]
        );
        assert_eq!((merged.examined, merged.count(Status::Error), merged.has_errors()), (2, 1, true));
        assert_eq!(merged.silent[0].to_string(), "agent agent-c on c does not answer: gone");
    }
}
