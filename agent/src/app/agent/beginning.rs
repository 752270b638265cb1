//! How an agent comes to its role: the kernel's half is loaded, workloads are taken from an agent that runs or one that was there
//! before, sockets are bound. Whatever fails, a running agent goes on.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use tokio::{net::UnixListener, sync::watch};

use super::settings::{direct, set_direct};
use crate::{
    app::{
        Settings, cleanup,
        role::{self, Announced, Candidate},
        settings::{DRAIN_DEADLINE, gateway_identity},
        take_over::{self, Found, Old},
    },
    datapath::Capture,
    flow::FlowTable,
    hbone::client::Gateways,
    kubernetes::{Cluster, endpoints::Endpoints},
    mesh::{MeshSettings, Snapshot},
    node::{
        agent::{Agent, Parts},
        cgroup::Hierarchy,
        resolvers,
        sockets::{Direct, SocketSettings},
    },
    source::directory::Loaded,
    tls::store::CertificateStore,
    workers::{self, Workers},
};

/// More would each have tunnels of their own for every workload.
const MAX_WORKERS: usize = 4;

/// What an agent starts from.
pub(super) struct Start {
    pub(super) settings: Settings,
    pub(super) cluster: Option<Cluster>,
    pub(super) configuration: watch::Receiver<Loaded>,
    /// Known by now.
    pub(super) gateways: watch::Receiver<Option<Endpoints>>,
    pub(super) machine_resolvers: Vec<SocketAddr>,
    pub(super) flows: FlowTable,
}

/// An agent that has the role.
pub(super) struct Started {
    pub(super) agent: Arc<Agent>,
    /// The settings that are read at the start only.
    pub(super) mesh: MeshSettings,
    pub(super) announced: Announced,
    /// Where clients ask.
    pub(super) clients: UnixListener,
    /// Where a successor asks.
    pub(super) successors: UnixListener,
}

/// Becomes the agent: `announced` is the role, where it must be free; else it is taken over from whoever has it.
pub(super) async fn start(
    start: &mut Start,
    candidate: &Candidate,
    announced: Option<Announced>,
) -> anyhow::Result<Started> {
    let Start { settings, cluster, configuration, gateways, machine_resolvers, flows } = start;
    let snapshot = Arc::clone(&configuration.borrow_and_update().snapshot);
    let mesh = snapshot.settings.clone();
    // Nobody is taken over before they are known: connections would be refused.
    let found = gateways.borrow_and_update().clone().unwrap_or_default();
    let instance = settings.run_dir.instance();
    let capture = Capture::load(&cleanup::pin_directory(&instance)).context("capture cannot start")?;
    // What an earlier agent permitted may still be open.
    let former = Direct::new(&capture.bypass()?, &capture.resolvers()?);
    let sockets = SocketSettings { direct_ever: former, ..SocketSettings::default() }
        .changed(direct(&mesh, machine_resolvers), mesh.existing_connections);
    let agent = Agent::new(Parts {
        capture,
        certificates: CertificateStore::new(role::issuer(settings, cluster.as_ref(), &mesh.trust_domain)?),
        gateways: Gateways::new(gateway_identity(&mesh)?),
        flows: flows.clone(),
        run_dir: settings.run_dir.clone(),
        hierarchy: Hierarchy::find()?,
        sockets,
        workers: Workers::start(workers::cpus().min(MAX_WORKERS), settings.source.tunnels())
            .context("the agent's threads")?,
    });
    // Until the role is ours, nothing is released or repaired.
    let frozen = agent.freeze().await;
    agent.set_gateways(&found).context("gateways")?;
    let met = match announced {
        Some(announced) => Found::Nobody(announced),
        None => take_over::meet(&settings.run_dir, candidate).await?,
    };
    let announced = match met {
        Found::Nobody(announced) => {
            begin(&agent, &snapshot, machine_resolvers)?;
            announced
        }
        Found::Old(old) => replace(*old, &agent, &snapshot, machine_resolvers, candidate).await?,
    };
    let clients = role::bind(&settings.run_dir.socket("agent"))?;
    let successors = role::bind(&settings.run_dir.socket(take_over::SOCKET))?;
    drop(frozen);
    tracing::info!(gateways = found.len(), "capturing");
    Ok(Started { agent, mesh, announced, clients, successors })
}

/// Takes the workloads of an earlier agent, if there was one. What cannot be taken stays refused.
fn begin(
    agent: &Arc<Agent>,
    snapshot: &Arc<Snapshot>,
    machine_resolvers: &[SocketAddr],
) -> anyhow::Result<usize> {
    let mesh = &snapshot.settings;
    set_direct(agent.capture(), mesh, machine_resolvers)?;
    agent.set_on_agent_down(mesh.on_agent_down);
    agent.configure(snapshot, resolvers::choose(mesh, machine_resolvers));
    agent.adopt().context("the workloads of an earlier agent cannot be taken over")
}

/// Takes all workloads of an agent that runs, or none.
async fn replace(
    mut old: Old,
    agent: &Arc<Agent>,
    snapshot: &Arc<Snapshot>,
    machine_resolvers: &[SocketAddr],
    candidate: &Candidate,
) -> anyhow::Result<Announced> {
    agent.number_after(old.last_id());
    let beginning = tokio::task::spawn_blocking({
        let (agent, snapshot) = (Arc::clone(agent), Arc::clone(snapshot));
        let resolvers = machine_resolvers.to_owned();
        move || begin(&agent, &snapshot, &resolvers)
    });
    let begun = async {
        tokio::select! {
            begun = beginning => begun?,
            never = old.keep_waiting() => match never {},
        }
    };
    let why = match begun.await {
        Ok(0) => return old.dismiss(candidate).await,
        Ok(refused) => anyhow::anyhow!("{refused} workloads cannot be taken over"),
        Err(why) => why,
    };
    // Until it has them back, our listeners serve.
    old.give_back().await;
    agent.drain(DRAIN_DEADLINE).await;
    Err(why.context("the running agent goes on"))
}
