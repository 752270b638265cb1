//! `egret agent`: captures the workloads of this machine and carries their connections to the gateway.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use tokio::{
    sync::watch,
    time::{self, MissedTickBehavior},
};
use tokio_util::task::TaskTracker;

use super::{
    Settings, cleanup, role,
    settings::{DRAIN_DEADLINE, RECENT_FLOWS, gateway_identity},
    shutdown,
};
use crate::{
    admin,
    datapath::Capture,
    flow::{FlowTable, Side},
    hbone::client::Gateway,
    mesh::MeshSettings,
    node::{
        agent::{Agent, Parts},
        binding,
        cgroup::Hierarchy,
        guard::Guards,
        resolvers,
        sockets::{Direct, SocketSettings},
    },
    tls::{issuer::unix::UnixIssuer, store::CertificateStore},
};

/// How often original destinations that nobody took are looked for.
const SWEEP_INTERVAL: time::Duration = time::Duration::from_secs(30);

/// Runs the agent until it is told to end. The programs stay attached: its workloads are refused until an agent is back.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    role::raise_open_files();
    let _announced = role::announce(&settings.run_dir, "agent")?;
    let mut configuration = role::configuration(&settings, &stop)?;
    let mesh = configuration.borrow_and_update().snapshot.settings.clone();
    let instance = settings.run_dir.instance();
    let capture = Capture::load(&cleanup::pin_directory(&instance)).context("capture cannot start")?;
    let machine_resolvers = resolvers::of_machine().unwrap_or_else(|e| {
        tracing::warn!("workloads cannot resolve names unless MeshConfig names dns.resolvers: {e}");
        Vec::new()
    });
    // What an earlier agent permitted may still be open.
    let former = Direct::new(&capture.bypass()?, &capture.resolvers()?);
    set_direct(&capture, &mesh, &machine_resolvers)?;
    let sockets = SocketSettings { direct_ever: former, ..SocketSettings::default() }
        .changed(direct(&mesh, &machine_resolvers), mesh.existing_connections);
    capture.set_gateways(&[settings.hbone_address]).context("gateways")?;
    let agent = Agent::new(Parts {
        capture,
        certificates: CertificateStore::new(Arc::new(UnixIssuer::new(settings.run_dir.issuer_socket()))),
        gateway: Gateway { address: settings.hbone_address, identity: gateway_identity(&mesh)? },
        flows: FlowTable::new(Side::Agent, RECENT_FLOWS),
        run_dir: settings.run_dir.clone(),
        hierarchy: Hierarchy::find()?,
        sockets,
    });
    agent.adopt().context("the workloads of an earlier agent cannot be taken over")?;
    let admin_listener = role::bind(&settings.run_dir.socket("agent"))?;
    tracing::info!(gateway = %settings.hbone_address, "capturing");

    let tasks = TaskTracker::new();
    tasks.spawn(admin::serve(
        admin_listener,
        admin::agent(Arc::clone(&agent), mesh.trust_domain.clone()),
        stop.clone(),
    ));
    let (guards, wanted) = watch::channel(Guards::unknown());
    tasks.spawn(binding::run(
        Arc::clone(&agent),
        configuration.clone(),
        mesh.trust_domain.clone(),
        guards,
        stop.clone(),
    ));
    tasks.spawn(Arc::clone(&agent).guard(wanted));
    let mut sweep = time::interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            changed = configuration.changed() => {
                if changed.is_err() {
                    break;
                }
                let snapshot = &configuration.borrow_and_update().snapshot;
                apply(&agent, &mesh, &snapshot.settings, &machine_resolvers);
            }
            _ = sweep.tick() => match agent.capture().sweep() {
                Ok(0) => {}
                Ok(swept) => tracing::debug!(swept, "original destinations nobody took"),
                Err(e) => tracing::warn!("{e}"),
            },
        }
    }
    agent.drain(DRAIN_DEADLINE).await;
    tasks.close();
    tasks.wait().await;
    Ok(())
}

fn apply(agent: &Agent, started_with: &MeshSettings, now: &MeshSettings, machine_resolvers: &[SocketAddr]) {
    if let Err(e) = set_direct(agent.capture(), now, machine_resolvers) {
        tracing::error!("what may be reached directly stays as it was: {e:#}");
    }
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
fn direct(mesh: &MeshSettings, machine_resolvers: &[SocketAddr]) -> Direct {
    Direct::new(&mesh.bypass, resolvers::choose(mesh, machine_resolvers))
}

/// What workloads may reach without the gateway.
fn set_direct(
    capture: &Capture,
    mesh: &MeshSettings,
    machine_resolvers: &[SocketAddr],
) -> anyhow::Result<()> {
    capture.set_bypass(&mesh.bypass).context("bypassed ranges")?;
    capture.set_resolvers(resolvers::choose(mesh, machine_resolvers)).context("DNS resolvers")
}
