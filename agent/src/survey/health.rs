//! The health of every role and of everything enrolled, in one form for a machine and for a cluster: for the page of `egret ui`.
//!
//! Pure. A cluster's is what [`overview`](super::overview) says of it.

use std::cmp::Reverse;

use serde::Serialize;

use super::{
    Role, RolePod,
    overview::{
        Overview, Problem,
        problems::{error, of_agent, of_configuration, of_role, warning},
    },
};
use crate::{
    admin::{AgentStatus, GatewayStatus, RoleStatus, WorkloadStatus},
    mesh::OnAgentDown,
};

/// How good or bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Good,
    /// Something to know.
    Warning,
    /// It has to be mended.
    Error,
}

/// A process of Egret's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// What it is.
    pub role: Role,
    /// Its pod, or its process id; absent: there is none.
    pub name: Option<String>,
    /// Its node.
    pub node: Option<String>,
    /// How it stands, in a word or two.
    pub state: String,
    /// How good that is.
    pub level: Level,
    /// Its version.
    pub version: Option<String>,
}

/// Something that is captured, or is meant to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Enrolment {
    /// Its namespace.
    pub namespace: String,
    /// Its pod, or its cgroup where it is none.
    pub name: String,
    /// Its node.
    pub node: Option<String>,
    /// Its identity; absent: it is not captured.
    pub identity: Option<String>,
    /// Which locks hold, or why it is not captured.
    pub state: String,
    /// How good that is.
    pub level: Level,
    /// Connections that were open to the outside though neither captured nor permitted.
    pub escaped: u64,
}

/// All of it: the answer of `/api/health`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Roles.
    pub parts: Vec<Part>,
    /// Enrolments, those with something to see first.
    pub enrolments: Vec<Enrolment>,
    /// What is wrong, the worst first.
    pub problems: Vec<Problem>,
    /// What could not be looked at, so that this is not the whole.
    pub unseen: Vec<String>,
}

impl Health {
    /// Of a cluster.
    pub fn of_cluster(overview: &Overview) -> Self {
        let ready = |pod: &RolePod| Part {
            role: pod.role,
            name: Some(pod.name.clone()),
            node: pod.node.clone(),
            state: if pod.is_well() { "ready" } else { "NOT READY" }.to_owned(),
            level: if pod.is_well() { Level::Good } else { Level::Error },
            version: None,
        };
        let agents = overview.nodes.iter().map(|row| Part {
            role: Role::Agent,
            name: row.agent.clone(),
            node: Some(row.node.clone()),
            state: row.state().to_owned(),
            level: level(row.state()),
            version: row.version.clone(),
        });
        let gateways = overview.gateways.iter().map(|row| Part {
            role: Role::Gateway,
            name: Some(row.pod.clone()),
            node: row.node.clone(),
            state: row.state().to_owned(),
            level: level(row.state()),
            version: row.version.clone(),
        });
        let enrolled = overview.enrolled.iter().map(|row| Enrolment {
            namespace: row.namespace.clone(),
            name: row.name.clone(),
            node: Some(row.node.clone()),
            identity: Some(row.identity.clone()),
            state: row.open.clone().unwrap_or_else(|| "all locks hold".to_owned()),
            level: locked(row.escaped, row.open.is_some()),
            escaped: row.escaped,
        });
        let uncaptured = overview.uncaptured.iter().map(|row| Enrolment {
            namespace: row.namespace.clone(),
            name: row.pod.clone(),
            node: Some(row.node.clone()),
            identity: None,
            state: format!("not captured: {}", row.why),
            level: Level::Error,
            escaped: 0,
        });
        Self {
            parts: agents.chain(gateways).chain(overview.authorities.iter().map(ready)).collect(),
            enrolments: sorted(uncaptured.chain(enrolled)),
            problems: overview.problems.clone(),
            unseen: overview.unseen.clone(),
        }
    }

    /// Of a machine, by what its roles answer, or why they do not.
    pub fn of_machine(agent: Result<&AgentStatus, &str>, gateway: Result<&GatewayStatus, &str>) -> Self {
        // An agent's pod has its gateway elsewhere.
        let is_pod = agent.is_ok_and(|agent| agent.role.pod.is_some());
        let mut health = Self::default();
        health.add(Role::Agent, agent.map(|agent| (agent.pid, agent.stage.to_string(), &agent.role)));
        if !(is_pod && gateway.is_err()) {
            health.add_gateway(gateway);
        }
        if let Ok(agent) = agent {
            health.enrolments = sorted(agent.workloads.iter().map(enrolment));
            health.problems.extend(of_agent(agent).map(|problem| warning("agent", problem, "")));
            let escaped = agent.counters.get("escaped").copied().unwrap_or_default();
            if escaped > 0 {
                let problem =
                    format!("{escaped} ESCAPED: connections to the outside neither captured nor permitted");
                let remedy = "the agent's log names them and their processes";
                health.problems.push(error("agent", problem, remedy));
            }
        }
        health.problems.sort_by_key(|problem| Reverse(problem.severity));
        health
    }

    /// Of a gateway, as it sees itself.
    pub fn of_gateway(gateway: Result<&GatewayStatus, &str>) -> Self {
        let mut health = Self::default();
        health.add_gateway(gateway);
        health
            .unseen
            .push("agents, enrolments and other gateways: this gateway does not know of them".to_owned());
        health.problems.sort_by_key(|problem| Reverse(problem.severity));
        health
    }

    fn add_gateway(&mut self, gateway: Result<&GatewayStatus, &str>) {
        self.add(Role::Gateway, gateway.map(|gateway| (gateway.pid, "serving".to_owned(), &gateway.role)));
        let Ok(gateway) = gateway else { return };
        if gateway.on_agent_down == OnAgentDown::Bypass.name() {
            let problem =
                "onAgentDown: BYPASS: while no agent runs, connections of its workloads GO OUT DIRECTLY";
            self.problems.push(warning("MeshConfig", problem, ""));
        }
        self.problems.extend(gateway.report.problems.iter().map(of_configuration));
    }

    fn add(&mut self, role: Role, said: Result<(u32, String, &RoleStatus), &str>) {
        let part = match said {
            Ok((pid, state, status)) => {
                self.problems.extend(of_role(status, role, "of this machine"));
                Part {
                    role,
                    name: Some(format!("pid {pid}")),
                    node: status.node.clone(),
                    state,
                    level: Level::Good,
                    version: Some(status.version.clone()),
                }
            }
            Err(why) => {
                let problem = format!("does not answer: {why}");
                let remedy =
                    "without it connections of workloads are refused, unless onAgentDown says otherwise";
                self.problems.push(error(role.name(), problem, remedy));
                let state = "DOWN".to_owned();
                Part { role, name: None, node: None, state, level: Level::Error, version: None }
            }
        };
        self.parts.push(part);
    }
}

/// Words in capitals are those to worry about.
fn level(state: &str) -> Level {
    match state {
        "ready" => Level::Good,
        _ if state.chars().any(char::is_lowercase) => Level::Warning,
        _ => Level::Error,
    }
}

fn locked(escaped: u64, open: bool) -> Level {
    match (escaped, open) {
        (1.., _) => Level::Error,
        (0, true) => Level::Warning,
        (0, false) => Level::Good,
    }
}

fn enrolment(status: &WorkloadStatus) -> Enrolment {
    let WorkloadStatus { workload, locks, sockets, .. } = status;
    Enrolment {
        namespace: workload.identity.namespace().to_owned(),
        name: workload.cgroup.display().to_string(),
        node: None,
        identity: Some(workload.identity.to_string()),
        state: locks.to_string(),
        level: locked(sockets.escaped, locks.open().is_some()),
        escaped: sockets.escaped,
    }
}

fn sorted(rows: impl Iterator<Item = Enrolment>) -> Vec<Enrolment> {
    let mut rows: Vec<_> = rows.collect();
    rows.sort_by(|a, b| {
        let key = |row: &Enrolment| (Reverse(row.level), row.namespace.clone(), row.name.clone());
        key(a).cmp(&key(b))
    });
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::survey::overview::{overview, tests::well};

    #[test]
    fn a_cluster_and_its_machines_are_told_of_alike() {
        let asked = well();
        let cluster = Health::of_cluster(&overview("istio-system", &asked));
        assert!(cluster.parts.iter().all(|part| part.level == Level::Good), "{:#?}", cluster.parts);
        let count = |role| cluster.parts.iter().filter(|part| part.role == role).count();
        assert_eq!((count(Role::Agent), count(Role::Gateway) > 0, count(Role::Ca) > 0), (2, true, true));
        assert_eq!((cluster.enrolments.len(), cluster.problems.len()), (1, 0));

        let (agent, gateway) =
            (asked.agents[0].said.as_ref().unwrap(), asked.gateways[0].said.as_ref().unwrap());
        let machine = Health::of_machine(Ok(agent), Ok(gateway));
        assert_eq!((machine.parts.len(), machine.problems.len()), (2, 0));
        assert_eq!(machine.enrolments[0].identity, cluster.enrolments[0].identity);
        assert_eq!(machine.enrolments[0].level, Level::Good);
    }

    #[test]
    fn what_is_down_or_escaped_is_an_error_and_comes_first() {
        let asked = well();
        let mut agent = asked.agents[0].said.clone().unwrap();
        agent.role.pod = None;
        let mut second = agent.workloads[0].clone();
        second.sockets.escaped = 1;
        agent.workloads.push(second);
        agent.counters.insert("escaped".to_owned(), 1);
        agent.binding_problems.push("no such unit".to_owned());
        let health = Health::of_machine(Ok(&agent), Err("nothing answers"));
        assert_eq!((health.parts[1].state.as_str(), health.parts[1].level), ("DOWN", Level::Error));
        assert_eq!((health.enrolments[0].escaped, health.enrolments[0].level), (1, Level::Error));
        let told: Vec<_> = health.problems.iter().map(|problem| problem.object.as_str()).collect();
        assert_eq!(told, ["gateway", "agent", "agent"], "{:#?}", health.problems);
        // In a pod the gateway is elsewhere, and not missed.
        agent.role.pod = Some("egret-agent-1".to_owned());
        assert_eq!(Health::of_machine(Ok(&agent), Err("nothing answers")).parts.len(), 1);
        assert_eq!(level("handover"), Level::Warning);
        assert_eq!(level("NOT READY"), Level::Error);
    }
}
