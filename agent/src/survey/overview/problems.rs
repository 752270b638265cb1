//! What is wrong with a cluster's Egret: each with the object that has it, and what to do.

use std::{collections::BTreeSet, fmt};

use jiff::SignedDuration;
use serde::Serialize;

use super::{Asked, NodeRow};
use crate::{
    admin::{AgentStatus, CaStatus, GatewayStatus, RoleStatus},
    mesh::OnAgentDown,
    source::report::{self, Severity},
    survey::{Answer, Role},
};

/// A root certificate is worth a word this long before it ends: everything that it signed ends with it.
const ROOT_NOTICE: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Objects with the same problem that are named; of more it is said how many.
const NAMED: usize = 3;

/// Something that has to be mended, or known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// Whose it is, such as `node a` or `VirtualService default/b`.
    pub object: String,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.problem)?;
        if let Some(remedy) = &self.remedy {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}

pub(in crate::survey) fn error(
    object: impl Into<String>,
    problem: impl Into<String>,
    remedy: &str,
) -> Problem {
    Problem {
        severity: Severity::Error,
        object: object.into(),
        problem: problem.into(),
        remedy: (!remedy.is_empty()).then(|| remedy.to_owned()),
    }
}

pub(in crate::survey) fn warning(
    object: impl Into<String>,
    problem: impl Into<String>,
    remedy: &str,
) -> Problem {
    Problem { severity: Severity::Warning, ..error(object, problem, remedy) }
}

/// All of them.
pub(super) fn all(asked: &Asked, nodes: &[NodeRow]) -> Vec<Problem> {
    let mut found = Vec::new();
    found.extend(nodes.iter().filter_map(|row| of_node(row, asked)));
    found.extend(nodes.iter().filter(|row| row.escaped > 0).map(escapes));
    found.extend(of_gateways(&asked.gateways));
    found.extend(of_authorities(&asked.authorities));
    found.extend(versions(asked));
    found.extend(root(asked));
    for Answer { pod, said } in &asked.agents {
        let Ok(status) = said else { continue };
        let node = format!("node {}", pod.node.as_deref().unwrap_or("?"));
        found.extend(of_agent(status).map(|problem| warning(&node, problem, "")));
        found.extend(of_role(&status.role, pod.role, &pod.name));
    }
    let configurations: BTreeSet<_> = asked
        .gateways
        .iter()
        .filter_map(|answer| answer.said.as_ref().ok())
        .flat_map(|status| status.report.problems.iter().map(of_configuration))
        .collect();
    for Answer { pod, said } in &asked.gateways {
        found.extend(said.iter().flat_map(|status| of_role(&status.role, pod.role, &pod.name)));
    }
    found.extend(configurations);
    found.extend(labels(asked));
    joined(found)
}

/// What many have is said once, in the order in which it was found.
fn joined(found: Vec<Problem>) -> Vec<Problem> {
    let mut joined: Vec<(Problem, Vec<String>)> = Vec::new();
    for problem in found {
        let same = |known: &Problem| {
            (known.severity, &known.problem, &known.remedy)
                == (problem.severity, &problem.problem, &problem.remedy)
        };
        match joined.iter_mut().find(|(known, _)| same(known)) {
            Some((_, objects)) if objects.contains(&problem.object) => {}
            Some((_, objects)) => objects.push(problem.object),
            None => joined.push((problem.clone(), vec![problem.object])),
        }
    }
    let named = |(problem, objects): (Problem, Vec<String>)| {
        let more = objects.len().saturating_sub(NAMED);
        let mut object = objects.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
        if more > 0 {
            object = format!("{object} and {more} more");
        }
        Problem { object, ..problem }
    };
    joined.into_iter().map(named).collect()
}

/// A node that nobody captures on, or of which nobody knows.
fn of_node(row: &NodeRow, asked: &Asked) -> Option<Problem> {
    let object = format!("node {}", row.node);
    let Some(agent) = &row.agent else {
        return Some(error(
            object,
            "NO AGENT: enrolled pods there are refused, and others are not captured",
            "look at the DaemonSet egret-agent: kubectl describe daemonset egret-agent, and its tolerations",
        ));
    };
    let about = asked.agents.iter().find(|answer| answer.pod.name == *agent)?;
    let trouble = about.pod.trouble.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
    match &about.said {
        Err(why) if about.pod.running && !row.ready => Some(error(
            object,
            format!("the agent {agent} is NOT READY: {why}"),
            "its log says what is missing: kubectl logs",
        )),
        Err(why) => Some(error(
            object,
            format!("the agent {agent} does not answer: {why}"),
            "if it is down, its enrolled pods are refused; its log says why: kubectl logs",
        )),
        Ok(_) if !row.ready => Some(error(
            object,
            format!("the agent {agent} is NOT READY{trouble}"),
            "its log says what is missing: kubectl logs",
        )),
        Ok(_) if row.terminating => {
            Some(warning(object, format!("the agent {agent} ends, and no other is there"), ""))
        }
        Ok(_) => None,
    }
}

fn escapes(row: &NodeRow) -> Problem {
    error(
        format!("node {}", row.node),
        format!(
            "{} ESCAPED: connections to the outside that were neither captured nor permitted",
            row.escaped
        ),
        "the agent's log names them and their processes",
    )
}

/// What an agent says is in its way, besides the Kubernetes API.
pub(in crate::survey) fn of_agent(status: &AgentStatus) -> impl Iterator<Item = String> + '_ {
    let bindings = status.binding_problems.iter().cloned();
    let guards = status.guards.iter().filter_map(|(parent, problem)| {
        Some(format!("no strict start below {}: {}", parent.display(), problem.as_ref()?))
    });
    let ranges = status.ranges.iter().flat_map(|ranges| ranges.problems.iter().cloned());
    bindings.chain(guards).chain(ranges)
}

fn of_gateways(gateways: &[Answer<GatewayStatus>]) -> Vec<Problem> {
    let mut found = Vec::new();
    if !gateways.iter().any(|answer| answer.pod.is_well()) {
        found.push(error(
            "gateway",
            "NO GATEWAY is ready: connections of enrolled pods are refused with 503",
            "look at the Deployment istio-egressgateway: kubectl describe, kubectl logs",
        ));
    }
    for Answer { pod, said } in gateways {
        let object = format!("gateway {}", pod.name);
        match (said, &pod.trouble) {
            (Err(_), _) if pod.terminating => {}
            (Err(why), _) if pod.running && !pod.ready => {
                found.push(error(object, format!("is not ready: {why}"), "its log says why: kubectl logs"));
            }
            (Err(why), _) => {
                found.push(error(object, format!("does not answer: {why}"), "look at its log: kubectl logs"));
            }
            (Ok(_), Some(why)) if !pod.ready => {
                found.push(error(object, format!("is not ready: {why}"), "its log says why: kubectl logs"));
            }
            (Ok(status), _) if status.on_agent_down == OnAgentDown::Bypass.name() => found.push(warning(
                "MeshConfig",
                "onAgentDown: BYPASS: while no agent runs, connections of its pods GO OUT DIRECTLY",
                "",
            )),
            (Ok(_), _) => {}
        }
    }
    found
}

fn of_authorities(authorities: &[Answer<CaStatus>]) -> Vec<Problem> {
    let mut found = Vec::new();
    if !authorities.iter().any(|answer| answer.pod.is_well()) {
        found.push(error(
            "ca",
            "NO CA is ready: certificates are not renewed, and new identities get none",
            "look at the Deployment egret-ca: kubectl describe, kubectl logs",
        ));
    }
    for Answer { pod, said } in authorities {
        let object = format!("ca {}", pod.name);
        match said {
            Err(_) if pod.terminating => {}
            Err(why) => {
                found.push(error(object, format!("does not answer: {why}"), "look at its log: kubectl logs"));
            }
            Ok(status) => {
                found.extend(status.problems.iter().map(|problem| error(&object, problem.clone(), "")));
            }
        }
    }
    found
}

/// More than one version is normal while an update runs, and only then.
fn versions(asked: &Asked) -> Option<Problem> {
    let agents = asked.agents.iter().filter_map(|answer| Some(&answer.said.as_ref().ok()?.role));
    let gateways = asked.gateways.iter().filter_map(|answer| Some(&answer.said.as_ref().ok()?.role));
    let versions: BTreeSet<_> = agents.chain(gateways).map(|role| role.version.as_str()).collect();
    (versions.len() > 1).then(|| {
        let several =
            versions.into_iter().map(|version| if version.is_empty() { "an old one" } else { version });
        let several = several.collect::<Vec<_>>().join(", ");
        warning(
            "versions",
            format!("agents and gateways are of different versions: {several}"),
            "an update runs, or has stopped half-way: kubectl rollout status",
        )
    })
}

fn root(asked: &Asked) -> Option<Problem> {
    let end = asked.scene.root_ends.as_ref().ok().copied().flatten()?;
    let (object, remedy) =
        ("ca", "give the Secret egret-ca a new certificate, and restart agents and gateways");
    if end <= asked.now {
        return Some(error(object, format!("its root certificate has EXPIRED ({end})"), remedy));
    }
    let left: SignedDuration = end.duration_since(asked.now);
    (left < ROOT_NOTICE).then(|| warning(object, format!("its root certificate ends soon: {end}"), remedy))
}

/// Labels that mean nothing, where the pod is captured all the same: those of others are the reason why they are not.
fn labels(asked: &Asked) -> impl Iterator<Item = Problem> + '_ {
    let pods = asked.scene.wanted.iter().flatten();
    pods.filter_map(|pod| {
        let odd = pod.odd.as_ref()?;
        let is_listed = pod.captured.as_ref().is_some_and(|(holds, _)| !holds);
        (!is_listed).then(|| warning(format!("pod {}/{}", pod.namespace, pod.name), odd.clone(), ""))
    })
}

/// Certificates and the Kubernetes API.
pub(in crate::survey) fn of_role(status: &RoleStatus, role: Role, name: &str) -> Vec<Problem> {
    let object = format!("{role} {name}");
    let mut found: Vec<_> =
        status.cluster_problems.iter().map(|problem| error(&object, problem.clone(), "")).collect();
    let failed = status.certificates.failed.iter().map(|(identity, why)| {
        error(identity.to_string(), format!("no certificate ({object}): {why}"), "look at the CA's log")
    });
    found.extend(failed);
    let overdue = status.certificates.overdue.iter().map(|identity| {
        let problem = format!("its certificate should have been renewed by now ({object})");
        warning(identity.to_string(), problem, "look at the CA's log, and at that of its holder")
    });
    found.extend(overdue);
    found
}

pub(in crate::survey) fn of_configuration(problem: &report::Problem) -> Problem {
    let object = problem.object.clone().unwrap_or_else(|| problem.file.clone());
    let field = problem.field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default();
    Problem {
        severity: problem.severity,
        object,
        problem: format!("[{}] {field}{}", problem.code, problem.message),
        remedy: problem.remedy.clone(),
    }
}
