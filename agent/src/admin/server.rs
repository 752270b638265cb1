//! The server half: one router per role.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{delete, get, post},
};
use tokio::{net::UnixListener, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{AgentStatus, Answer, GatewayStatus, Question, Ready, RoleStatus};
use crate::{
    flow::FlowTable,
    kubernetes::Cluster,
    mesh::{OutboundTrafficPolicy, SpiffeId},
    node::{
        agent::{Agent, Enrolment, Error},
        workload::{Origin, Workload},
    },
    source::directory::Loaded,
    tls::store::CertificateStore,
};

/// An error for the CLI: a status and a sentence.
type Failure = (StatusCode, String);

/// Serves `router` until `stop`.
pub async fn serve(listener: UnixListener, router: Router, stop: CancellationToken) {
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
    if let Err(e) = served {
        tracing::error!("admin socket: {e}");
    }
}

/// What every role answers.
pub fn base() -> Router {
    Router::new().route("/ready", get(|| async { Json(Ready { ready: true, pid: std::process::id() }) }))
}

/// The agent's: status, flows, enrolment.
pub fn agent(agent: Arc<Agent>, trust_domain: String, cluster: Option<Cluster>) -> Router {
    let flows = agent.flows().clone();
    let routes = Router::new()
        .route("/status", get(agent_status))
        .route("/workloads", post(enroll))
        .route("/workloads/{id}", delete(release))
        .with_state(AgentState { agent, trust_domain: trust_domain.into(), cluster });
    base().merge(flow_routes(flows)).merge(routes)
}

/// The gateway's: status, flows and explanations.
pub fn gateway(
    configuration: watch::Receiver<Loaded>,
    flows: FlowTable,
    certificates: CertificateStore,
    cluster: Option<Cluster>,
) -> Router {
    let routes = Router::new()
        .route("/status", get(gateway_status))
        .route("/explain", post(explain))
        .with_state(GatewayState { configuration, certificates, cluster });
    base().merge(flow_routes(flows)).merge(routes)
}

#[derive(Clone)]
struct AgentState {
    agent: Arc<Agent>,
    trust_domain: Arc<str>,
    cluster: Option<Cluster>,
}

#[derive(Clone)]
struct GatewayState {
    configuration: watch::Receiver<Loaded>,
    certificates: CertificateStore,
    cluster: Option<Cluster>,
}

fn flow_routes(flows: FlowTable) -> Router {
    Router::new()
        .route("/flows", get(|State(flows): State<FlowTable>| async move { Json(flows.records()) }))
        .with_state(flows)
}

async fn agent_status(State(AgentState { agent, cluster, .. }): State<AgentState>) -> Json<AgentStatus> {
    let counters: BTreeMap<_, _> =
        agent.counters().into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
    Json(AgentStatus {
        pid: std::process::id(),
        role: RoleStatus::of(cluster.as_ref(), agent.certificates()),
        gateways: agent.gateways(),
        workloads: agent.workloads(),
        binding_problems: agent.binding_problems(),
        guards: agent.guards(),
        counters,
    })
}

async fn enroll(
    State(AgentState { agent, trust_domain, .. }): State<AgentState>,
    Json(Enrolment { namespace, service_account, own_network, cgroup }): Json<Enrolment>,
) -> Result<Json<Workload>, Failure> {
    let identity = SpiffeId::new(&trust_domain, &namespace, &service_account)
        .map_err(|e| (StatusCode::BAD_REQUEST, e.to_string()))?;
    let _acting = agent.acting().await.ok_or_else(moved)?;
    // Namespaces, mounts and programs: system calls that may take milliseconds.
    blocking(move || match cgroup {
        Some(cgroup) => agent.enroll_cgroup(&identity, &cgroup, Origin::Hand, None),
        None => agent.enroll(&identity, own_network),
    })
    .await
}

async fn release(
    State(AgentState { agent, .. }): State<AgentState>,
    Path(id): Path<u32>,
) -> Result<Json<()>, Failure> {
    let _acting = agent.acting().await.ok_or_else(moved)?;
    blocking(move || agent.release_by_hand(id)).await
}

/// Another agent has taken over: the client asks again, and finds that one.
fn moved() -> Failure {
    (StatusCode::MISDIRECTED_REQUEST, "another agent has taken over".to_owned())
}

async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<Json<T>, Failure> {
    let done = tokio::task::spawn_blocking(f).await;
    done.map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?.map(Json).map_err(|e| {
        let status = match e {
            Error::Cgroup { .. } | Error::Release { .. } => StatusCode::CONFLICT,
            Error::Workload { .. } | Error::Capture { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        };
        // With its causes: the CLI prints it as it is.
        (status, format!("{:#}", anyhow::Error::new(e)))
    })
}

async fn gateway_status(State(state): State<GatewayState>) -> Json<GatewayStatus> {
    let loaded = state.configuration.borrow().clone();
    let settings = &loaded.snapshot.settings;
    let policy = match settings.outbound_traffic_policy {
        OutboundTrafficPolicy::AllowAny => "ALLOW_ANY",
        OutboundTrafficPolicy::RegistryOnly => "REGISTRY_ONLY",
    };
    Json(GatewayStatus {
        pid: std::process::id(),
        role: RoleStatus::of(state.cluster.as_ref(), &state.certificates),
        trust_domain: settings.trust_domain.clone(),
        outbound_traffic_policy: policy.to_owned(),
        on_agent_down: settings.on_agent_down.name().to_owned(),
        config_version: loaded.snapshot.version,
        report: loaded.report,
    })
}

async fn explain(
    State(GatewayState { configuration, .. }): State<GatewayState>,
    Json(question): Json<Question>,
) -> Result<Json<Answer>, Failure> {
    let snapshot = Arc::clone(&configuration.borrow().snapshot);
    question.ask(&snapshot).map(Json).map_err(|e| (StatusCode::BAD_REQUEST, e))
}
