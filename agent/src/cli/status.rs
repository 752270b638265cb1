//! `egret status`: workloads, configuration and counters of the running instance. A cluster's is `cluster::status`.

use std::process::ExitCode;

use serde::Serialize;

use super::{
    args::{self, Format, Query},
    cluster, output,
};
use crate::{
    admin::{AgentStatus, GatewayStatus, WorkloadStatus, client},
    hbone::client::GatewayState,
    mesh::OnAgentDown,
    net::endpoints::Condition,
    source::report::Problem,
    tls::store::CertificateStatus,
};

/// The JSON of `egret status -o json`. A role that is down is absent.
#[derive(Serialize)]
struct Status {
    config: Option<Config>,
    workloads: Vec<WorkloadStatus>,
    agent: Option<AgentStatus>,
    gateway: Option<GatewayStatus>,
}

/// The configuration in force.
#[derive(Serialize)]
struct Config {
    version: u64,
    objects: usize,
    problems: Vec<Problem>,
}

/// Asks, prints.
pub(super) async fn run(arguments: args::Status) -> anyhow::Result<ExitCode> {
    let args::Status { query, access, pods } = arguments;
    if let Some(access) = access.cluster() {
        return cluster::status::run(&access, pods, query.output.format).await;
    }
    anyhow::ensure!(
        !pods,
        "--pods is for a cluster: name one with --context, or --cluster for the current context"
    );
    of_machine(&query).await.map(|()| ExitCode::SUCCESS)
}

async fn of_machine(query: &Query) -> anyhow::Result<()> {
    let run_dir = query.instance.run_dir();
    let (agent_socket, gateway_socket) = (run_dir.agent_socket(), run_dir.socket("gateway"));
    let (agent, gateway) = tokio::join!(
        client::get::<AgentStatus>(&agent_socket, "/status"),
        client::get::<GatewayStatus>(&gateway_socket, "/status"),
    );
    let (agent, gateway) = match (agent, gateway) {
        (Err(e), Err(_)) => return Err(e.into()),
        // In an agent's pod of a cluster there is no gateway.
        (Ok(agent), Err(_)) if agent.role.pod.is_some() => (Some(agent), None),
        (agent, gateway) => (answered("agent", agent), answered("gateway", gateway)),
    };
    let status = Status {
        config: gateway.as_ref().map(|gateway| Config {
            version: gateway.config_version,
            objects: gateway.report.objects,
            problems: gateway.report.problems.clone(),
        }),
        workloads: agent.as_ref().map(|agent| agent.workloads.clone()).unwrap_or_default(),
        agent,
        gateway,
    };
    match query.output.format {
        Format::Json => output::json(&status),
        Format::Table => Ok(output::text(human(&status))?),
    }
}

/// Says why a role is shown as down: it may hang, or be somebody else's.
fn answered<T>(role: &str, answer: Result<T, client::Error>) -> Option<T> {
    answer
        .map_err(|e| output::error(&anyhow::Error::new(e).context(format!("the {role} does not answer"))))
        .ok()
}

/// The gateways in one line, and what is wrong with them.
fn gateways(gateways: &[GatewayState]) -> String {
    if gateways.is_empty() {
        return "nobody: no egress gateway is ready".to_owned();
    }
    let described = gateways.iter().map(|gateway| {
        let draining = if gateway.condition == Condition::Draining { " (draining)" } else { "" };
        let problem = gateway.problem.as_ref().map(|problem| format!(" ({problem})")).unwrap_or_default();
        format!("{}{draining}{problem}", gateway.address)
    });
    described.collect::<Vec<_>>().join(", ")
}

/// How many there are, and how many should be.
fn certificates(status: &CertificateStatus) -> String {
    let mut text = output::count(status.valid, "certificate");
    for (number, what) in [(status.overdue.len(), "OVERDUE"), (status.failed.len(), "MISSING")] {
        if number > 0 {
            text = format!("{text}, {number} {what}");
        }
    }
    text
}

fn human(status: &Status) -> String {
    let mut lines = Vec::new();
    let bypass =
        status.gateway.as_ref().is_some_and(|gateway| gateway.on_agent_down == OnAgentDown::Bypass.name());
    lines.push(match &status.agent {
        Some(agent) => {
            format!(
                "agent    {} (pid {}, version {}), tunnels to {}; {}",
                agent.stage,
                agent.pid,
                agent.role.version,
                gateways(&agent.gateways),
                certificates(&agent.role.certificates)
            )
        }
        None if bypass => {
            "agent    DOWN: connections of its workloads GO OUT DIRECTLY (onAgentDown: BYPASS)".to_owned()
        }
        None => "agent    DOWN: connections of its workloads are refused".to_owned(),
    });
    if bypass && status.agent.is_some() {
        lines.push(
            "         onAgentDown: BYPASS: without it, connections of workloads go out directly".to_owned(),
        );
    }
    let is_pod = status.agent.as_ref().is_some_and(|agent| agent.role.pod.is_some());
    lines.push(status.gateway.as_ref().map_or_else(
        || {
            let whereabouts = if is_pod {
                "in pods of its own: egret status --cluster shows them, and the whole"
            } else {
                "DOWN: connections of workloads are refused with 503"
            };
            format!("gateway  {whereabouts}")
        },
        |gateway| {
            format!(
                "gateway  serving (pid {}, version {}), trust domain {}, unregistered hosts: {}; {}",
                gateway.pid,
                gateway.role.version,
                gateway.trust_domain,
                gateway.outbound_traffic_policy,
                certificates(&gateway.role.certificates)
            )
        },
    ));
    if let Some(config) = &status.config {
        lines.push(format!(
            "config   version {}, {}, {}",
            config.version,
            output::count(config.objects, "object"),
            output::count(config.problems.len(), "problem")
        ));
        lines.extend(config.problems.iter().map(|problem| format!("         {problem}")));
    }
    lines.push(String::new());
    if status.workloads.is_empty() {
        lines.push("no workloads".to_owned());
    } else {
        let mut table = output::table(&[
            "ID", "WORKLOAD", "ORIGIN", "NETWORK", "LOCKS", "ESCAPED", "OLDER", "FOREIGN", "CGROUP",
        ]);
        for WorkloadStatus { workload, networks, locks, sockets } in &status.workloads {
            table.add_row([
                workload.id.to_string(),
                format!("{}/{}", workload.identity.namespace(), workload.identity.service_account()),
                workload.origin.to_string(),
                network(networks),
                locks.to_string(),
                sockets.escaped.to_string(),
                sockets.older.to_string(),
                sockets.foreign.to_string(),
                workload.cgroup.display().to_string(),
            ]);
        }
        lines.push(table.trim_fmt());
    }
    if let Some(agent) = &status.agent {
        lines.extend(agent.binding_problems.iter().map(|problem| format!("binding  {problem}")));
        lines.extend(agent.guards.iter().map(|(parent, problem)| {
            let standing =
                problem.as_deref().unwrap_or("nothing that starts in it gets out before it is known");
            format!("guard    {}: {standing}", parent.display())
        }));
        lines.push(String::new());
        let mut table = output::table(&["COUNTER", "COUNT"]);
        // That nothing escaped is the promise, and said.
        for (name, count) in agent.counters.iter().filter(|(name, count)| **count > 0 || *name == "escaped") {
            table.add_row([name.clone(), count.to_string()]);
        }
        lines.push(table.trim_fmt());
    }
    lines.join("\n")
}

/// Whose network: `host`, `own`, or both.
fn network(networks: &[String]) -> String {
    let own = networks.iter().filter(|name| *name != "host").count();
    let host = own < networks.len();
    match (host, own) {
        (_, 0) => "host".to_owned(),
        (false, 1) => "own".to_owned(),
        (false, several) => format!("own ({several})"),
        (true, 1) => "host, own".to_owned(),
        (true, several) => format!("host, own ({several})"),
    }
}
