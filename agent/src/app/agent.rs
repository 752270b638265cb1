//! `egret agent`: captures the workloads of this machine and carries their connections to the gateway. With `--take-over` it
//! takes them from an agent that runs; on a cluster it always does where there is one.

mod beginning;
mod on_cluster;
mod serving;
mod settings;

use std::{
    future,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use tokio::time;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    beginning::Start,
    serving::{Ended, Process, serve},
};
use super::{Settings, metrics, role, run_dir::RunDir, settings::DRAIN_DEADLINE, shutdown};
use crate::{
    admin::{AgentState, Readiness},
    flow::{FlowTable, Side},
    kubernetes::configuration::Scope,
    node::resolvers,
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
    match role::cluster(&settings)? {
        Some(cluster) => on_cluster::run(settings, cluster, stop).await,
        None => on_machine(settings, take_over, stop).await,
    }
}

/// Serves metrics as long as they are this agent's to tell: while it captures, or nobody does.
async fn serve_metrics(address: SocketAddr, admin: AgentState, run_dir: RunDir, stop: CancellationToken) {
    let acting = Arc::clone(&admin.acting);
    let is_due = move || match acting.get() {
        Some((agent, _)) => !agent.has_given_up(),
        // Without a pid file there is nobody.
        None => !role::is_held(&run_dir, "agent").unwrap_or(false),
    };
    metrics::serve_while(address, move || admin.measure(), is_due, stop).await;
}

/// Whatever is in the way ends it: the supervisor starts it again, or says so.
async fn on_machine(settings: Settings, take_over: bool, stop: CancellationToken) -> anyhow::Result<()> {
    let candidate = role::Candidate::stand(&settings.run_dir)?;
    let announced = if take_over { None } else { Some(role::announce(&settings.run_dir, "agent")?) };
    let configuration = role::configuration(&settings, None, Scope::Agent, &stop).await?;
    let gateways = role::gateways(&settings, None);
    let machine_resolvers = resolvers::of_machine().unwrap_or_else(|e| {
        tracing::warn!("workloads cannot resolve names unless MeshConfig names dns.resolvers: {e}");
        Vec::new()
    });
    let take_over_drain = settings.take_over_drain;
    let flows = FlowTable::new(Side::Agent, settings.flow_capacity);
    let admin = AgentState {
        acting: Arc::new(OnceLock::new()),
        flows: flows.clone(),
        readiness: Readiness::default(),
        ranges: None,
        verdicts: None,
        cluster: None,
    };
    let tasks = TaskTracker::new();
    if let Some(address) = settings.metrics_address {
        tasks.spawn(serve_metrics(address, admin.clone(), settings.run_dir.clone(), stop.clone()));
    }
    let mut start = Start { settings, cluster: None, configuration, gateways, machine_resolvers, flows };
    let started = beginning::start(&mut start, &candidate, announced).await?;
    drop(candidate);
    let agent = Arc::clone(&started.agent);
    let deadline = match serve(
        &mut start,
        started,
        admin,
        None,
        future::pending(),
        Process { tasks: &tasks, stop: &stop },
    )
    .await
    {
        Ended::TakenOver => {
            tracing::info!("another agent has taken over; connections may go on for {take_over_drain:?}");
            take_over_drain
        }
        Ended::Told | Ended::Removal => DRAIN_DEADLINE,
    };
    if stop.run_until_cancelled(agent.drain(deadline)).await.is_none() {
        agent.drain(DRAIN_DEADLINE).await;
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(())
}
