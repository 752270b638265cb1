//! `egret flows`: every flow, from the workload to the external server.

use std::process::ExitCode;

use jiff::tz::TimeZone;

use super::{
    args::{Flows, Format},
    cluster, output,
};
use crate::{
    admin::client,
    flow::{self, FlowRecord, JoinedFlow},
};

/// Asks agent and gateway, joins, prints.
pub(super) async fn run(arguments: Flows) -> anyhow::Result<ExitCode> {
    if let Some(access) = arguments.access.cluster() {
        return cluster::flows::run(&access, &arguments).await;
    }
    of_machine(&arguments).await.map(|()| ExitCode::SUCCESS)
}

async fn of_machine(arguments: &Flows) -> anyhow::Result<()> {
    let Flows { query, .. } = arguments;
    let run_dir = query.instance.run_dir();
    let (agent_socket, gateway_socket) = (run_dir.agent_socket(), run_dir.socket("gateway"));
    let (agent, gateway) = tokio::join!(
        client::get::<Vec<FlowRecord>>(&agent_socket, "/flows"),
        client::get::<Vec<FlowRecord>>(&gateway_socket, "/flows"),
    );
    // Half a view is worth more than none while one role is down; but it must not pass for the whole.
    let (agent, gateway) = match (agent, gateway) {
        (Err(e), Err(_)) => return Err(e.into()),
        (agent, gateway) => (side("agent", agent), side("gateway", gateway)),
    };
    let mut flows = flow::join(agent, gateway);
    flows.retain(|joined| arguments.selects(&joined.flow));
    match query.output.format {
        Format::Json => output::json(&flows),
        Format::Table => Ok(output::text(table(&flows))?),
    }
}

fn side(role: &str, records: Result<Vec<FlowRecord>, client::Error>) -> Vec<FlowRecord> {
    records.unwrap_or_else(|e| {
        output::error(&anyhow::Error::new(e).context(format!("flows of the {role} are missing here")));
        Vec::new()
    })
}

fn table(flows: &[JoinedFlow]) -> String {
    if flows.is_empty() {
        return "no flows yet; `egret exec NAMESPACE/SERVICE-ACCOUNT -- COMMAND` makes some".to_owned();
    }
    let mut table = output::table(&HEADER);
    for JoinedFlow { flow, .. } in flows {
        table.add_row(cells(flow));
    }
    table.trim_fmt()
}

/// The columns of a flow.
pub(super) const HEADER: [&str; 10] = [
    "STARTED",
    "WORKLOAD",
    "DESTINATION",
    "HOST",
    "VERDICT",
    "REASON",
    "UPSTREAM",
    "SENT",
    "RECEIVED",
    "DURATION",
];

/// A flow in these columns.
pub(super) fn cells(flow: &FlowRecord) -> [String; 10] {
    let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
    [
        flow.started.to_zoned(TimeZone::system()).strftime("%H:%M:%S%.3f").to_string(),
        format!("{}/{}", flow.workload.namespace(), flow.workload.service_account()),
        flow.original_destination.to_string(),
        or_dash(flow.host.as_deref()),
        flow.verdict.to_string(),
        flow.reason.to_string(),
        or_dash(flow.upstream_cluster.as_deref()),
        output::bytes(flow.sent),
        output::bytes(flow.received),
        flow.duration_ms.map_or_else(|| "open".to_owned(), output::milliseconds),
    ]
}
