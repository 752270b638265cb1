//! The server half: one router per role.

use std::{
    collections::BTreeMap,
    iter, mem,
    sync::{Arc, OnceLock},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::{delete, get, post},
};
use tokio::{net::UnixListener, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{
    AgentStatus, Answer, GatewayPage, GatewayStatus, Question, Readiness, Ready, RoleStatus, metrics,
};
use crate::{
    flow::{FlowQuery, FlowRecord, FlowTable},
    gateway::Gateway,
    kubernetes::{Cluster, ranges::Ranges},
    mesh::{OutboundTrafficPolicy, SpiffeId},
    node::{
        agent::{Agent, Enrolment, Error},
        pods::Verdicts,
        workload::{Origin, Workload},
    },
    source::directory::Loaded,
    telemetry::metrics::page::Page,
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

/// Says whether a role is ready, whenever it is asked.
pub trait Ask: Fn() -> Ready + Clone + Send + Sync + 'static {}

impl<F: Fn() -> Ready + Clone + Send + Sync + 'static> Ask for F {}

/// What every role answers.
pub fn base(readiness: impl Ask) -> Router {
    Router::new().route("/ready", get(move || async move { Json(readiness()) }))
}

/// What the agent's admin socket asks. It may be served before there is an agent.
#[derive(Clone)]
pub struct AgentState {
    /// The agent, once it acts, with its trust domain.
    pub acting: Arc<OnceLock<(Arc<Agent>, String)>>,
    /// Its flows.
    pub flows: FlowTable,
    /// Whether it is ready.
    pub readiness: Readiness,
    /// Cluster-internal ranges that were found, where there is a cluster.
    pub ranges: Option<watch::Receiver<Ranges>>,
    /// What is said of the node's pods, where there is a cluster.
    pub verdicts: Option<watch::Receiver<Arc<Verdicts>>>,
    /// The cluster.
    pub cluster: Option<Cluster>,
}

impl AgentState {
    fn acting(&self) -> Result<&(Arc<Agent>, String), Failure> {
        self.acting.get().ok_or_else(|| {
            let why = self.readiness.ask().problems.join("; ");
            let why = if why.is_empty() { "it is just starting".to_owned() } else { why };
            (StatusCode::SERVICE_UNAVAILABLE, format!("the agent does not capture yet: {why}"))
        })
    }
}

impl AgentState {
    /// What it measures; before it acts that is little.
    pub fn measure(&self) -> Page {
        let mut page = Page::default();
        let standing = self.cluster.as_ref().map(|cluster| &cluster.standing);
        metrics::role(&mut page, "agent", &self.readiness.ask(), standing);
        metrics::flows(&mut page, "agent", &self.flows);
        if let (Ok((agent, _)), Ok(status)) = (self.acting(), self.status()) {
            metrics::certificates(&mut page, "agent", &status.role.certificates);
            let verdicts = self.verdicts.as_ref().map(|verdicts| Arc::clone(&verdicts.borrow()));
            metrics::agent(&mut page, &status, agent.refusals(), verdicts.as_deref());
        }
        page
    }

    fn status(&self) -> Result<AgentStatus, Failure> {
        let (agent, _) = self.acting()?;
        let counters: BTreeMap<_, _> =
            agent.counters().into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        let stage = self.readiness.ask().stage;
        let ranges = self.ranges.as_ref().map(|ranges| ranges.borrow().clone());
        let mut role = RoleStatus::of(self.cluster.as_ref(), agent.certificates());
        role.cluster_problems.extend(self.readiness.waiting());
        role.cluster_problems.extend(ranges.iter().flat_map(|ranges| ranges.problems.clone()));
        Ok(AgentStatus {
            pid: std::process::id(),
            stage,
            role,
            gateways: agent.gateways(),
            // Those of an agent that gave them up are another's to tell of.
            workloads: if agent.has_given_up() { Vec::new() } else { agent.workloads() },
            binding_problems: agent.binding_problems(),
            guards: agent.guards(),
            ranges,
            counters,
        })
    }
}

/// The agent's: status, flows, metrics, enrolment.
pub fn agent(state: AgentState) -> Router {
    let (flows, readiness, measured) = (state.flows.clone(), state.readiness.clone(), state.clone());
    let routes = Router::new()
        .route("/status", get(agent_status))
        .route("/workloads", post(enroll))
        .route("/workloads/{id}", delete(release))
        .with_state(state);
    let metrics = metrics::measured(move || measured.measure());
    base(move || readiness.ask()).merge(flow_routes(flows)).merge(metrics).merge(routes)
}

/// What the gateway's admin socket asks. It is served before there is a configuration.
#[derive(Clone)]
pub struct GatewayState<R> {
    /// The configuration, once one was read, and the gateway's certificates.
    pub configured: Arc<OnceLock<(watch::Receiver<Loaded>, CertificateStore)>>,
    /// The gateway, once it serves.
    pub serving: Arc<OnceLock<Arc<Gateway>>>,
    /// Its flows.
    pub flows: FlowTable,
    /// Whether it is ready.
    pub readiness: R,
    /// The cluster.
    pub cluster: Option<Cluster>,
    /// Where its page is, if anywhere.
    pub page: Option<GatewayPage>,
}

impl<R: Ask> GatewayState<R> {
    fn configured(&self) -> Result<&(watch::Receiver<Loaded>, CertificateStore), Failure> {
        self.configured.get().ok_or_else(|| {
            let why = (self.readiness)().problems.join("; ");
            (StatusCode::SERVICE_UNAVAILABLE, format!("the gateway has no configuration yet: {why}"))
        })
    }
}

impl<R: Ask> GatewayState<R> {
    /// What it measures.
    pub fn measure(&self) -> Page {
        let mut page = Page::default();
        let standing = self.cluster.as_ref().map(|cluster| &cluster.standing);
        metrics::role(&mut page, "gateway", &(self.readiness)(), standing);
        if let Ok(status) = self.status() {
            metrics::certificates(&mut page, "gateway", &status.role.certificates);
            metrics::configuration(&mut page, &status);
        }
        if let Some(gateway) = self.serving.get() {
            metrics::flows(&mut page, "gateway", &self.flows);
            gateway.write_metrics(&mut page);
        }
        page
    }

    pub(super) fn status(&self) -> Result<GatewayStatus, Failure> {
        let (configuration, certificates) = self.configured()?;
        let loaded = configuration.borrow().clone();
        let settings = &loaded.snapshot.settings;
        let policy = match settings.outbound_traffic_policy {
            OutboundTrafficPolicy::AllowAny => "ALLOW_ANY",
            OutboundTrafficPolicy::RegistryOnly => "REGISTRY_ONLY",
        };
        let mut role = RoleStatus::of(self.cluster.as_ref(), certificates);
        for problem in (self.readiness)().problems {
            if !role.cluster_problems.contains(&problem) {
                role.cluster_problems.push(problem);
            }
        }
        Ok(GatewayStatus {
            pid: std::process::id(),
            role,
            trust_domain: settings.trust_domain.clone(),
            outbound_traffic_policy: policy.to_owned(),
            on_agent_down: settings.on_agent_down.name().to_owned(),
            config_version: loaded.snapshot.version,
            report: loaded.report,
        })
    }
}

/// The gateway's: status, flows, metrics and explanations.
pub fn gateway<R: Ask>(state: GatewayState<R>) -> Router {
    let (flows, readiness, measured) = (state.flows.clone(), state.readiness.clone(), state.clone());
    let routes = Router::new()
        .route("/status", get(gateway_status::<R>))
        .route("/explain", post(explain::<R>))
        .route("/page", get(gateway_page::<R>))
        .with_state(state);
    let metrics = metrics::measured(move || measured.measure());
    base(readiness).merge(flow_routes(flows)).merge(metrics).merge(routes)
}

/// Flows, of agent and gateway alike.
pub fn flow_routes(flows: FlowTable) -> Router {
    Router::new().route("/flows", get(selected_flows)).with_state(flows)
}

/// What a [`FlowQuery`] asks for; without one, everything.
async fn selected_flows(
    State(flows): State<FlowTable>,
    Query(query): Query<FlowQuery>,
) -> Result<Response, Failure> {
    if !flows.keeps_records() {
        let why = "flow accounting is off here (--flow-capacity 0; flowCapacity of the chart)";
        return Err((StatusCode::NOT_FOUND, why.to_owned()));
    }
    // Of a large table it takes milliseconds, in which this thread is to serve others.
    let selected = tokio::task::spawn_blocking(move || flows.select(&query)).await;
    let selected = selected.map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    let body = Body::from_stream(tokio_stream::iter(pieces(selected)));
    Ok(([(CONTENT_TYPE, "application/json")], body).into_response())
}

/// Records in one piece of an answer, which is made at once: about 100 KB, and 0.1 ms.
const PIECE: usize = 64;

/// A JSON list, piece by piece, as whoever asked takes it: as a whole that of a large table would be larger than the table.
fn pieces(records: Vec<Arc<FlowRecord>>) -> impl Iterator<Item = serde_json::Result<Vec<u8>>> {
    let (mut records, mut begun, mut ended) = (records.into_iter(), false, false);
    iter::from_fn(move || {
        if ended {
            return None;
        }
        let mut piece = Vec::new();
        for record in records.by_ref().take(PIECE) {
            piece.push(if mem::replace(&mut begun, true) { b',' } else { b'[' });
            if let Err(e) = serde_json::to_writer(&mut piece, &record) {
                return Some(Err(e));
            }
        }
        if records.len() == 0 {
            ended = true;
            piece.extend_from_slice(if begun { b"]" } else { b"[]" });
        }
        Some(Ok(piece))
    })
}

async fn agent_status(State(state): State<AgentState>) -> Result<Json<AgentStatus>, Failure> {
    state.status().map(Json)
}

async fn enroll(
    State(state): State<AgentState>,
    Json(Enrolment { namespace, service_account, own_network, cgroup }): Json<Enrolment>,
) -> Result<Json<Workload>, Failure> {
    let (agent, trust_domain) = state.acting()?.clone();
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

async fn release(State(state): State<AgentState>, Path(id): Path<u32>) -> Result<Json<()>, Failure> {
    let (agent, _) = state.acting()?.clone();
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

async fn gateway_status<R: Ask>(
    State(state): State<GatewayState<R>>,
) -> Result<Json<GatewayStatus>, Failure> {
    state.status().map(Json)
}

async fn gateway_page<R: Ask>(State(state): State<GatewayState<R>>) -> Result<Json<GatewayPage>, Failure> {
    state.page.map(Json).ok_or_else(|| {
        let why = "this gateway serves no page: it takes `egret gateway --page-address 127.0.0.1:15000` (chart value gateway.page)";
        (StatusCode::NOT_FOUND, why.to_owned())
    })
}

async fn explain<R: Ask>(
    State(state): State<GatewayState<R>>,
    Json(question): Json<Question>,
) -> Result<Json<Answer>, Failure> {
    let (configuration, _) = state.configured()?;
    let snapshot = Arc::clone(&configuration.borrow().snapshot);
    question.ask(&snapshot).map(Json).map_err(|e| (StatusCode::BAD_REQUEST, e))
}
