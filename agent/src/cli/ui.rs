//! `egret ui`: serves the page of this machine or of a cluster; or says where a gateway serves its own.

use std::time::Duration;

use anyhow::Context as _;

use super::{
    args::{ClusterAccess, Instance, Ui},
    cluster,
    flows::asking::{Roles, Told},
    output,
};
use crate::{
    admin::{AgentStatus, GatewayPage, GatewayStatus, client},
    app::{listen::listen, port},
    flow::FlowQuery,
    survey::{flows::PlacedFlow, health::Health},
    ui::{self, Source, Token},
};

/// How long an answer serves.
const FRESH_ON_MACHINE: Duration = Duration::from_secs(1);
const FRESH_ON_CLUSTER: Duration = Duration::from_secs(5);

/// Serves until it is interrupted.
pub(super) async fn run(arguments: Ui) -> anyhow::Result<()> {
    let Ui { instance, access, listen: address, gateway } = arguments;
    if gateway {
        let socket = instance.run_dir().socket("gateway");
        let GatewayPage { url } = client::get(&socket, "/page").await?;
        output::text(url)?;
        output::note(
            "the address is for you alone: whoever has it and reaches the gateway's loopback may look, too",
        );
        return Ok(());
    }
    let roles = Roles::find(&access, &instance).await?;
    let listener = listen(address)
        .with_context(|| format!("cannot listen on {address}: choose another port with --listen"))?;
    let token = Token::random();
    output::text(format!("http://{}/#{token}", listener.local_addr()?))?;
    output::note("the address is for you alone: whoever has it may look, too; Ctrl-C ends it");
    let api = ui::api(Everybody { instance, access, roles });
    port::answer(listener, ui::router(api, &token)).await;
    Ok(())
}

/// All agents and gateways of this machine, or of a cluster.
struct Everybody {
    instance: Instance,
    access: ClusterAccess,
    roles: Roles,
}

impl Source for Everybody {
    fn fresh(&self) -> Duration {
        if self.is_cluster() { FRESH_ON_CLUSTER } else { FRESH_ON_MACHINE }
    }

    fn is_cluster(&self) -> bool {
        self.roles.is_cluster()
    }

    fn scope(&self) -> Option<String> {
        None
    }

    async fn flows(&self, query: FlowQuery) -> Result<(Vec<PlacedFlow>, Vec<String>), String> {
        let Told { flows, missing } = self.roles.ask_all(&query).await.map_err(|e| output::message(&e))?;
        Ok((flows, missing.iter().map(output::message).collect()))
    }

    async fn health(&self) -> Result<Health, String> {
        if let Some(access) = self.access.cluster() {
            // All that it asks at once is large, and would be part of every answer's future.
            let overview = Box::pin(cluster::status::ask(&access)).await.map_err(|e| output::message(&e))?;
            return Ok(Health::of_cluster(&overview));
        }
        let run_dir = self.instance.run_dir();
        let (agent_socket, gateway_socket) = (run_dir.agent_socket(), run_dir.socket("gateway"));
        let (agent, gateway) = tokio::join!(
            client::get::<AgentStatus>(&agent_socket, "/status"),
            client::get::<GatewayStatus>(&gateway_socket, "/status"),
        );
        let agent = agent.map_err(|e| output::message(&e.into()));
        let gateway = gateway.map_err(|e| output::message(&e.into()));
        let (agent, gateway) = (agent.as_ref(), gateway.as_ref());
        Ok(Health::of_machine(agent.map_err(String::as_str), gateway.map_err(String::as_str)))
    }
}
