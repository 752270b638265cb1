//! `egret agent`: captures the workloads of this machine and carries their connections to the gateway. With `--take-over` it
//! takes them from an agent that runs.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use tokio::{
    sync::watch,
    time::{self, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Settings, cleanup, role,
    settings::{DRAIN_DEADLINE, RECENT_FLOWS, gateway_identity},
    shutdown,
    take_over::{self, Found, Old},
};
use crate::{
    admin,
    datapath::Capture,
    flow::{FlowTable, Side},
    hbone::client::Gateways,
    kubernetes::{self, Cluster, configuration::Scope},
    mesh::{MeshSettings, Snapshot},
    node::{
        agent::{Agent, Parts},
        binding,
        cgroup::Hierarchy,
        guard::Guards,
        pods, resolvers,
        sockets::{Direct, SocketSettings},
    },
    tls::store::CertificateStore,
};

/// How often original destinations that nobody took are looked for.
const SWEEP_INTERVAL: time::Duration = time::Duration::from_secs(30);

/// How long an agent that was taken over goes on accepting, and programs of another version stay: connections that were sent to
/// it just before are on their way. (Measured: 20 ms lose none.)
const LINGER: time::Duration = time::Duration::from_millis(200);

/// Runs the agent until it is told to end, or another one has taken over. The programs stay attached: its workloads are
/// refused until an agent is back.
pub async fn run(settings: Settings, take_over: bool) -> anyhow::Result<()> {
    let stop = shutdown::on_signal()?;
    role::raise_open_files();
    let candidate = role::Candidate::stand(&settings.run_dir)?;
    let announced = if take_over { None } else { Some(role::announce(&settings.run_dir, "agent")?) };
    let cluster = role::cluster(&settings)?;
    let mut configuration = role::configuration(&settings, cluster.as_ref(), Scope::Agent, &stop).await?;
    let snapshot = Arc::clone(&configuration.borrow_and_update().snapshot);
    let mesh = snapshot.settings.clone();
    let mut gateways = role::gateways(&settings, cluster.as_ref());
    // Nobody is taken over before it is known: connections would be refused.
    let found = stop.run_until_cancelled(gateways.wait_for(Option::is_some)).await;
    let found = found.context("told to end before the gateways were found")?.context("the gateways")?.clone();
    let found = found.unwrap_or_default();
    gateways.mark_unchanged();
    let instance = settings.run_dir.instance();
    let capture = Capture::load(&cleanup::pin_directory(&instance)).context("capture cannot start")?;
    let machine_resolvers = resolvers::of_machine().unwrap_or_else(|e| {
        tracing::warn!("workloads cannot resolve names unless MeshConfig names dns.resolvers: {e}");
        Vec::new()
    });
    // What an earlier agent permitted may still be open.
    let former = Direct::new(&capture.bypass()?, &capture.resolvers()?);
    let sockets = SocketSettings { direct_ever: former, ..SocketSettings::default() }
        .changed(direct(&mesh, &machine_resolvers), mesh.existing_connections);
    let agent = Agent::new(Parts {
        capture,
        certificates: CertificateStore::new(role::issuer(&settings, cluster.as_ref(), &mesh.trust_domain)?),
        gateways: Gateways::new(gateway_identity(&mesh)?),
        flows: FlowTable::new(Side::Agent, RECENT_FLOWS),
        run_dir: settings.run_dir.clone(),
        hierarchy: Hierarchy::find()?,
        sockets,
    });
    // Until the role is ours, nothing is released or repaired.
    let frozen = agent.freeze().await;
    agent.set_gateways(&found).context("gateways")?;
    let met = match announced {
        Some(announced) => Found::Nobody(announced),
        None => take_over::meet(&settings.run_dir, &candidate).await?,
    };
    let announced = match met {
        Found::Nobody(announced) => {
            begin(&agent, &snapshot, &machine_resolvers)?;
            announced
        }
        Found::Old(old) => replace(*old, &agent, &snapshot, &machine_resolvers, &candidate).await?,
    };
    drop(candidate);
    let admin_listener = role::bind(&settings.run_dir.socket("agent"))?;
    let successors = role::bind(&settings.run_dir.socket(take_over::SOCKET))?;
    drop(frozen);
    tracing::info!(gateways = found.len(), "capturing");

    let tasks = TaskTracker::new();
    tasks.spawn(admin::serve(
        admin_listener,
        admin::agent(Arc::clone(&agent), mesh.trust_domain.clone(), cluster.clone()),
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
    if let Some(cluster) = cluster {
        follow_pods(&tasks, &agent, cluster, mesh.trust_domain.clone(), &stop);
    }
    let (following, ending) = (Arc::clone(&agent), stop.clone());
    tasks.spawn(async move {
        ending.run_until_cancelled(following.follow_gateways(gateways)).await;
    });
    // An agent that was taken over may still have connections to gateways that we do not know.
    let alone = time::Instant::now() + settings.take_over_drain + LINGER;
    let retiring = Arc::clone(&agent);
    tasks.spawn(async move {
        time::sleep(LINGER).await;
        match retiring.capture().retire_other_versions() {
            Ok(0) => {}
            Ok(retired) => tracing::info!(retired, "removed the programs of other versions"),
            Err(e) => tracing::error!("{e}"),
        }
    });
    let mut taken_over = tokio::spawn(take_over::offer(successors, Arc::clone(&agent), announced));
    let mut sweep = time::interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut deadline = DRAIN_DEADLINE;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = &mut taken_over => {
                deadline = settings.take_over_drain;
                tracing::info!("another agent has taken over; connections may go on for {deadline:?}");
                time::sleep(LINGER).await;
                break;
            }
            changed = configuration.changed() => {
                if changed.is_err() {
                    break;
                }
                let snapshot = Arc::clone(&configuration.borrow_and_update().snapshot);
                // While another agent takes over, the maps are its own to write.
                if let Some(_acting) = agent.acting().await {
                    apply(&agent, &mesh, &snapshot, &machine_resolvers);
                }
            }
            _ = sweep.tick() => {
                match agent.capture().sweep() {
                    Ok(0) => {}
                    Ok(swept) => tracing::debug!(swept, "original destinations nobody took"),
                    Err(e) => tracing::warn!("{e}"),
                }
                if time::Instant::now() > alone
                    && let Some(_acting) = agent.acting().await
                    && let Err(e) = agent.forget_gateways()
                {
                    tracing::warn!("gateways that are gone stay permitted: {e}");
                }
            }
        }
    }
    if stop.run_until_cancelled(agent.drain(deadline)).await.is_none() {
        agent.drain(DRAIN_DEADLINE).await;
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// Enrols the pods of this node, and tells them so.
fn follow_pods(
    tasks: &TaskTracker,
    agent: &Arc<Agent>,
    cluster: Cluster,
    trust_domain: String,
    stop: &CancellationToken,
) {
    let (verdicts, told) = watch::channel(Arc::default());
    let parts = pods::Parts {
        agent: Arc::clone(agent),
        own: cluster.own.uid.clone(),
        trust_domain,
        pods: kubernetes::pods::watch(&cluster),
        verdicts,
    };
    tasks.spawn(pods::run(parts, stop.clone()));
    let agent = Arc::clone(agent);
    let failed = move || agent.condition_not_written();
    tasks.spawn(kubernetes::pods::conditions::write(cluster, told, failed, stop.clone()));
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
    candidate: &role::Candidate,
) -> anyhow::Result<role::Announced> {
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

fn apply(
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
