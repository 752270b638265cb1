//! Overviews of made-up clusters.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use super::{Asked, Node, Overview, Scene, WantedPod, overview};
use crate::{
    admin::{AgentStatus, CaStatus, GatewayStatus, RoleStatus, Stage, WorkloadStatus},
    hbone::client::GatewayState,
    kubernetes::endpoints::Condition,
    mesh::SpiffeId,
    node::{
        locks::{Lock, Locks},
        sockets::{Existing, SocketStatus},
        workload::{Origin, Workload},
    },
    source::report::{self, Report, Severity},
    survey::{Answer, Role, testing::pod},
    tls::store::CertificateStatus,
};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

pub(crate) fn end(hours: i64) -> Timestamp {
    NOW + jiff::SignedDuration::from_hours(hours)
}

pub(crate) fn id(name: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "default", name).unwrap()
}

fn role(pod: &str, certificates: CertificateStatus) -> RoleStatus {
    RoleStatus {
        version: "0.1.0".to_owned(),
        pod: Some(pod.to_owned()),
        certificates,
        ..RoleStatus::default()
    }
}

fn workload(name: &str, escaped: u64) -> WorkloadStatus {
    WorkloadStatus {
        workload: Workload {
            id: 1,
            identity: id(name),
            cgroup: format!("/kubepods/pod-{name}").into(),
            cgroup_inode: 1,
            namespace: None,
            origin: Origin::Hand,
            existing: Existing::default(),
        },
        networks: Vec::new(),
        locks: Locks { capture: Lock::Holds, backstop: Lock::Holds, link: Lock::Holds },
        sockets: SocketStatus { escaped, ..SocketStatus::default() },
    }
}

fn agent(name: &str, node: &str, workloads: Vec<WorkloadStatus>) -> Answer<AgentStatus> {
    let certificates = CertificateStatus {
        valid: workloads.len(),
        first_to_end: workloads.first().map(|first| (first.workload.identity.clone(), end(20))),
        ..CertificateStatus::default()
    };
    let status = AgentStatus {
        pid: 1,
        role: role(name, certificates),
        gateways: Vec::new(),
        workloads,
        binding_problems: Vec::new(),
        guards: BTreeMap::new(),
        stage: Stage::default(),
        ranges: None,
        counters: BTreeMap::new(),
    };
    Answer { pod: pod(Role::Agent, name, node), said: Ok(status) }
}

fn gateway(name: &str, objects: usize, problems: Vec<report::Problem>) -> Answer<GatewayStatus> {
    let first_to_end = Some((id("istio-egressgateway"), end(10)));
    let status = GatewayStatus {
        pid: 1,
        role: role(name, CertificateStatus { valid: 1, first_to_end, ..CertificateStatus::default() }),
        trust_domain: "cluster.local".to_owned(),
        outbound_traffic_policy: "ALLOW_ANY".to_owned(),
        on_agent_down: "REFUSE".to_owned(),
        config_version: 3,
        report: Arc::new(Report { objects, problems }),
    };
    Answer { pod: pod(Role::Gateway, name, "node-1"), said: Ok(status) }
}

fn authority(name: &str) -> Answer<CaStatus> {
    let status = CaStatus {
        pid: 1,
        trust_domain: Some("cluster.local".to_owned()),
        problems: Vec::new(),
        counters: BTreeMap::new(),
    };
    Answer { pod: pod(Role::Ca, name, "node-1"), said: Ok(status) }
}

/// Two nodes, everything as it should be.
pub(crate) fn well() -> Asked {
    let nodes = ["node-1", "node-2"].map(|name| Node { name: name.to_owned(), ready: true });
    Asked {
        agents: vec![
            agent("egret-agent-1", "node-1", vec![workload("sleep", 0)]),
            agent("egret-agent-2", "node-2", Vec::new()),
        ],
        gateways: vec![gateway("istio-egressgateway-1", 5, Vec::new())],
        authorities: vec![authority("egret-ca-1")],
        scene: Scene {
            nodes: Ok(nodes.to_vec()),
            wanted: Ok(Vec::new()),
            root_ends: Ok(Some(end(24 * 365))),
        },
        now: NOW,
    }
}

fn of(asked: &Asked) -> Overview {
    overview("istio-system", asked)
}

fn said(overview: &Overview) -> Vec<String> {
    overview.problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_cluster_that_is_well_has_no_problems() {
    let all = of(&well());
    assert_eq!(said(&all), Vec::<String>::new());
    assert!(all.silent.is_empty() && all.unseen.is_empty() && all.anyone_answered());
    let rows: Vec<_> = all.nodes.iter().map(|row| (row.node.as_str(), row.enrolled, row.ready)).collect();
    assert_eq!(rows, [("node-1", 1, true), ("node-2", 0, true)]);
    assert_eq!((all.certificates.valid, all.certificates.first_ends), (2, Some(end(10))));
    assert_eq!(all.configuration.unwrap().objects, 5);
}

#[test]
fn a_node_without_an_agent_and_one_whose_agent_is_silent_are_said() {
    let mut asked = well();
    asked.agents.remove(1);
    asked.agents[0].said = Err("nothing came for 8s".to_owned());
    let all = of(&asked);
    let said = said(&all);
    assert!(
        said[0].starts_with("node node-1: the agent egret-agent-1 does not answer: nothing came"),
        "{said:?}"
    );
    assert!(said[1].starts_with("node node-2: NO AGENT"), "{said:?}");
    assert_eq!((all.silent.len(), all.nodes[0].answered, all.anyone_answered()), (1, false, true));
    asked.gateways[0].said = Err("forbidden".to_owned());
    assert!(!of(&asked).anyone_answered());
}

#[test]
fn who_runs_and_is_not_ready_is_not_called_silent() {
    let mut asked = well();
    asked.agents[0].pod.ready = false;
    asked.agents[0].said = Err("capture: this kernel has no BTF".to_owned());
    asked.gateways[0].pod.ready = false;
    asked.gateways[0].said = Err("the gateway has no configuration yet".to_owned());
    let said = said(&of(&asked)).join("\n");
    for part in [
        "the agent egret-agent-1 is NOT READY: capture: this kernel",
        "is not ready: the gateway has no configuration yet",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
}

#[test]
fn while_an_agent_takes_over_the_one_that_has_the_role_is_shown() {
    let mut asked = well();
    // It runs, and who answers in it is the old one.
    let mut fresh = agent("egret-agent-1b", "node-1", vec![workload("sleep", 0)]);
    fresh.pod.ready = false;
    if let Ok(status) = &mut fresh.said {
        status.role.pod = Some("egret-agent-1".to_owned());
    }
    asked.agents.insert(0, fresh);
    let all = of(&asked);
    let row = &all.nodes[0];
    assert_eq!(
        (row.agent.as_deref(), row.second.as_deref()),
        (Some("egret-agent-1"), Some("egret-agent-1b"))
    );
    assert_eq!((row.enrolled, all.enrolled.len()), (1, 1));
    assert!(all.problems.is_empty(), "{:?}", said(&all));
}

#[test]
fn escapes_are_errors_also_of_workloads_that_are_gone() {
    let mut asked = well();
    if let Ok(status) = &mut asked.agents[1].said {
        status.counters.insert("escaped".to_owned(), 2);
    }
    asked.agents[0] = agent("egret-agent-1", "node-1", vec![workload("sleep", 3)]);
    let all = of(&asked);
    assert_eq!(all.nodes.iter().map(|row| row.escaped).collect::<Vec<_>>(), [3, 2]);
    assert!(said(&all).iter().all(|problem| problem.contains("ESCAPED")));
    assert_eq!(all.problems.len(), 2);
}

#[test]
fn wanted_pods_that_are_not_captured_are_listed_with_the_reason() {
    let mut asked = well();
    let wanted = |name: &str, node: &str, captured| WantedPod {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        node: node.to_owned(),
        captured,
        odd: None,
    };
    asked.scene.wanted = Ok(vec![
        wanted("fine", "node-1", Some((true, "captured".to_owned()))),
        wanted("refused", "node-1", Some((false, "no cgroup v2".to_owned()))),
        wanted("new", "node-1", None),
        wanted("alone", "node-3", None),
        wanted("left", "node-3", Some((true, "captured".to_owned()))),
    ]);
    let all = of(&asked);
    let rows: Vec<_> = all.uncaptured.iter().map(|row| (row.pod.as_str(), row.why.as_str())).collect();
    assert_eq!(
        rows,
        [
            ("refused", "no cgroup v2"),
            ("new", "the agent has not said anything of it"),
            ("alone", "no agent is on its node"),
            ("left", "no agent is on its node any more: what it dials is refused"),
        ]
    );
    assert_eq!(all.nodes[0].uncaptured, 2, "its row does not look as if all were well");
}

#[test]
fn a_label_that_means_nothing_is_said_once() {
    let mut asked = well();
    let odd = |name: &str, holds| WantedPod {
        namespace: "default".to_owned(),
        name: name.to_owned(),
        node: "node-1".to_owned(),
        captured: Some((holds, "the label means nothing".to_owned())),
        odd: Some("the label means nothing".to_owned()),
    };
    asked.scene.wanted = Ok(vec![odd("by-its-namespace", true), odd("not", false)]);
    let all = of(&asked);
    assert_eq!(said(&all), ["pod default/by-its-namespace: the label means nothing"]);
    let rows: Vec<_> = all.uncaptured.iter().map(|row| row.pod.as_str()).collect();
    assert_eq!(rows, ["not"]);
}

#[test]
fn refused_objects_are_said_once_however_many_gateways_refuse_them() {
    let problem = report::Problem {
        severity: Severity::Error,
        code: "EG0101".to_owned(),
        file: "VirtualService default/a".to_owned(),
        document: 1,
        line: None,
        object: Some("VirtualService default/a".to_owned()),
        field: Some("spec.hosts".to_owned()),
        message: "is missing".to_owned(),
        remedy: Some("write it".to_owned()),
    };
    let mut asked = well();
    asked.gateways = vec![gateway("one", 4, vec![problem.clone()]), gateway("two", 4, vec![problem])];
    let all = of(&asked);
    assert_eq!(said(&all), ["VirtualService default/a: [EG0101] spec.hosts: is missing; write it"]);
    assert_eq!(all.configuration.unwrap().errors, 1);
}

#[test]
fn what_is_missing_of_gateway_ca_certificates_and_rights_is_said() {
    let mut asked = well();
    asked.gateways[0].pod.ready = false;
    asked.gateways[0].pod.trouble = Some("no certificate yet".to_owned());
    asked.authorities[0].pod.ready = false;
    asked.authorities[0].said = Err("ImagePullBackOff".to_owned());
    asked.scene.root_ends = Ok(Some(end(24)));
    asked.scene.nodes = Err("nodes is forbidden".to_owned());
    if let Ok(status) = &mut asked.agents[1].said {
        status.role.version = "0.0.9".to_owned();
        status.role.certificates.failed.insert(id("late"), "the CA is down".to_owned());
    }
    let all = of(&asked);
    let said = said(&all).join("\n");
    for part in [
        "NO GATEWAY is ready",
        "gateway istio-egressgateway-1: is not ready: no certificate yet",
        "NO CA is ready",
        "ca egret-ca-1: does not answer: ImagePullBackOff",
        "its root certificate ends soon",
        "of different versions: 0.0.9, 0.1.0",
        "sa/late: no certificate (agent egret-agent-2): the CA is down",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    assert_eq!(all.unseen, ["nodes without an agent are not seen: nodes is forbidden"]);
    assert_eq!(all.nodes.len(), 2, "agents show their nodes");
}

#[test]
fn tunnels_are_counted_by_the_agents_once_per_node() {
    let mut asked = well();
    let address = "10.244.1.9".parse().unwrap();
    asked.gateways[0].pod.address = Some(address);
    for (answer, connections) in asked.agents.iter_mut().zip([2, 3]) {
        if let Ok(status) = &mut answer.said {
            status.gateways = vec![GatewayState {
                address: (address, 15008).into(),
                condition: Condition::Ready,
                problem: None,
                connections,
            }];
        }
    }
    let again = asked.agents[0].clone();
    asked.agents.push(again);
    assert_eq!(of(&asked).gateways[0].tunnels, Some(5));
}

#[test]
fn what_all_agents_say_is_said_once() {
    let mut asked = well();
    asked.agents.extend((3..8).map(|n| agent(&format!("egret-agent-{n}"), &format!("node-{n}"), Vec::new())));
    for answer in &mut asked.agents {
        if let Ok(status) = &mut answer.said {
            status.role.cluster_problems.push("pods: forbidden".to_owned());
        }
    }
    let said = said(&of(&asked));
    assert_eq!(
        said,
        ["agent egret-agent-1, agent egret-agent-2, agent egret-agent-3 and 4 more: pods: forbidden"]
    );
}
