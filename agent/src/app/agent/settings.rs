//! The mesh's settings at an agent: what may be reached without the gateway, resolvers, what happens while no agent runs. Put in
//! force at the start and with every configuration.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;

use crate::{
    datapath::Capture,
    mesh::{MeshSettings, Snapshot},
    node::{agent::Agent, resolvers, sockets::Direct},
};

/// Puts a configuration in force at an agent that acts.
pub(super) fn apply(
    agent: &Agent,
    started_with: &MeshSettings,
    snapshot: &Arc<Snapshot>,
    machine_resolvers: &[SocketAddr],
) {
    let now = &snapshot.settings;
    if let Err(e) = set_direct(agent.capture(), now, machine_resolvers) {
        tracing::error!("what may be reached directly stays as it was: {e:#}");
    }
    agent.set_on_agent_down(now.on_agent_down);
    agent.configure(snapshot, resolvers::choose(now, machine_resolvers));
    agent.set_direct(direct(now, machine_resolvers), now.existing_connections);
    if now.trust_domain != started_with.trust_domain
        || now.gateway.namespace != started_with.gateway.namespace
    {
        tracing::warn!(
            "trust domain and gateway namespace are read at the start only: restart egret to change them"
        );
    }
}

/// What workloads may reach without the gateway, for whoever looks at their sockets.
pub(super) fn direct(mesh: &MeshSettings, machine_resolvers: &[SocketAddr]) -> Direct {
    Direct::new(&mesh.bypass, resolvers::choose(mesh, machine_resolvers))
}

/// What workloads may reach without the gateway.
pub(super) fn set_direct(
    capture: &Capture,
    mesh: &MeshSettings,
    machine_resolvers: &[SocketAddr],
) -> anyhow::Result<()> {
    capture.set_bypass(&mesh.bypass).context("bypassed ranges")?;
    capture.set_resolvers(resolvers::choose(mesh, machine_resolvers)).context("DNS resolvers")
}
