//! `egret flows` on a cluster: every flow of every node, with the pods that carried it.

use std::process::ExitCode;

use crate::{
    cli::{
        args::{Flows, Format},
        flows::{HEADER, cells},
        output,
    },
    flow::FlowRecord,
    kubernetes::{Outside, ask, outside::Access},
    survey::{
        Role,
        flows::{ClusterFlow, join},
        silent,
    },
};

/// Longer names lose their middle; what tells replicas apart is at their end.
const NAME: usize = 22;

/// Asks all agents and gateways, joins, prints.
pub(in crate::cli) async fn run(access: &Access, arguments: &Flows) -> anyhow::Result<ExitCode> {
    let outside = Outside::connect(access).await?;
    let pods = ask::pods(&outside).await?;
    let (agents, gateways) = tokio::join!(
        ask::each::<Vec<FlowRecord>>(
            &outside,
            super::of_role(&pods, Role::Agent),
            &["ask", "agent", "/flows"]
        ),
        ask::each::<Vec<FlowRecord>>(
            &outside,
            super::of_role(&pods, Role::Gateway),
            &["ask", "gateway", "/flows"]
        ),
    );
    let answered = agents.iter().chain(&gateways).any(|answer| answer.said.is_ok());
    super::complain(silent(&agents).chain(silent(&gateways)));
    anyhow::ensure!(answered, "no agent and no gateway in namespace {} answers", outside.namespace);
    let mut flows = join(agents, gateways);
    flows.retain(|flow| arguments.selects(&flow.joined.flow));
    match arguments.query.output.format {
        Format::Json => output::json(&flows)?,
        Format::Table => output::text(table(&flows))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn table(flows: &[ClusterFlow]) -> String {
    if flows.is_empty() {
        return "no flows; label a namespace egret.dev/egress=enabled, and its pods make some".to_owned();
    }
    let header: Vec<&str> = HEADER.into_iter().chain(["POD", "NODE", "GATEWAY"]).collect();
    let mut table = output::table(&header);
    for ClusterFlow { joined, node, gateway_pod, .. } in flows {
        let places = [joined.flow.pod.as_deref(), node.as_deref(), gateway_pod.as_deref()];
        let places = places.map(|name| name.map_or_else(|| "-".to_owned(), |name| output::short(name, NAME)));
        table.add_row(cells(&joined.flow).into_iter().chain(places));
    }
    table.trim_fmt()
}
