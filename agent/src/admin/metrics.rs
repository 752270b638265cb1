//! What roles measure: the numbers of `/metrics` that are looked up when somebody asks, from what `egret status` shows.
//!
//! `server` and `ca` fill a page for each answer. What the gateway counts of traffic it writes itself. Families that several roles
//! have bear the label `component`, so that `egret up` can put all of them on one page.

use std::{collections::BTreeMap, time::SystemTime};

use agent_common::Decision;
use axum::{Router, http::HeaderMap, response::IntoResponse as _, routing::get};
use http::header::{ACCEPT, CONTENT_TYPE};
use jiff::Timestamp;

use super::{AgentStatus, GatewayStatus, Ready, WorkloadStatus};
use crate::{
    flow::{FlowTable, Verdict},
    hbone::client::GatewayState,
    kubernetes::standing::Standing,
    net::endpoints::Condition,
    node::{locks::Lock, pods::Verdicts, workload::Origin},
    reason::Reason,
    source::report::Severity,
    telemetry::metrics::{
        bounded::OTHER,
        exposition::{Format, render},
        page::Page,
    },
    tls::store::CertificateStatus,
};

/// Gateways with numbers of their own; all further ones are one.
const MOST_GATEWAYS: usize = 100;

/// Answers `/metrics` with what `measure` says, in the format that is asked for.
pub fn measured(measure: impl Fn() -> Page + Clone + Send + Sync + 'static) -> Router {
    Router::new().route(
        "/metrics",
        get(move |headers: HeaderMap| async move {
            let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let format = Format::accepted(accept);
            ([(CONTENT_TYPE, format.content_type())], render(measure().registry(), format)).into_response()
        }),
    )
}

/// What every role says.
pub(super) fn role(page: &mut Page, component: &str, ready: &Ready, standing: Option<&Standing>) {
    let of = |value: f64| [(vec![("component", component.to_owned())], value)];
    let version =
        vec![("component", component.to_owned()), ("version", env!("CARGO_PKG_VERSION").to_owned())];
    page.gauges("egret_build_info", "Always 1; which version of Egret this is", [(version, 1.0)]);
    page.gauges("egret_ready", "Whether the role serves: 1 or 0", of(flag(ready.ready)));
    page.gauges(
        "egret_problems",
        "What is in the role's way or not as it should be; `egret status` has the sentences",
        of(ready.problems.len() as f64),
    );
    if let Some(standing) = standing {
        page.gauges(
            "egret_api_read",
            "Whether all that is needed of the Kubernetes API has been read at least once: 1 or 0",
            of(flag(standing.is_complete())),
        );
        page.gauges(
            "egret_api_problems",
            "How much of what is read from the Kubernetes API, or written to it, does not work now",
            of(standing.problems().len() as f64),
        );
    }
}

/// What the table of flows keeps.
pub(super) fn flows(page: &mut Page, component: &str, flows: &FlowTable) {
    let (kept, gone) = flows.kept_and_gone();
    let labels = || vec![("component", component.to_owned())];
    page.gauges("egret_flow_records", "Ended flows that are kept", [(labels(), kept as f64)]);
    page.counters(
        "egret_flow_records_gone",
        "Ended flows that made room for later ones: --flow-capacity says how many are kept",
        [(labels(), gone as u64)],
    );
}

/// How it stands with certificates.
pub(super) fn certificates(page: &mut Page, component: &str, status: &CertificateStatus) {
    let counts =
        [("valid", status.valid), ("overdue", status.overdue.len()), ("failed", status.failed.len())];
    page.gauges(
        "egret_certificates",
        "Identities by how it stands with their certificate; overdue ones are valid, too",
        counts.map(|(state, count)| {
            (vec![("component", component.to_owned()), ("state", state.to_owned())], count as f64)
        }),
    );
    if let Some((_, end)) = &status.first_to_end {
        let left = end.as_second() - Timestamp::now().as_second();
        expiry(page, component, left as f64);
    }
}

/// When the authority's own certificate ends.
pub(super) fn authority(page: &mut Page, not_after: SystemTime) {
    let left = match not_after.duration_since(SystemTime::now()) {
        Ok(left) => left.as_secs_f64(),
        Err(over) => -over.duration().as_secs_f64(),
    };
    expiry(page, "ca", left.floor());
}

fn expiry(page: &mut Page, component: &str, seconds: f64) {
    page.gauges(
        "egret_certificate_expiry_seconds",
        "Seconds until the first of the role's valid certificates ends; of the CA, the one that signs and those up to its root",
        [(vec![("component", component.to_owned())], seconds)],
    );
}

/// What the CA did, by outcome.
pub(super) fn issued(page: &mut Page, counts: BTreeMap<String, u64>) {
    page.counters(
        "egret_ca_requests",
        "Certificates that were issued, and requests and connections that were refused, by outcome",
        counts.into_iter().map(|(outcome, count)| (vec![("outcome", outcome)], count)),
    );
}

/// What a gateway knows of its configuration.
pub(super) fn configuration(page: &mut Page, status: &GatewayStatus) {
    page.gauge(
        "egret_config_version",
        "Version of the configuration in force; counts up with every change",
        status.config_version as f64,
    );
    page.gauge("egret_config_objects", "Objects of the configuration in force", status.report.objects as f64);
    let found =
        |severity| status.report.problems.iter().filter(|problem| problem.severity == severity).count();
    page.gauges(
        "egret_config_problems",
        "What the last load of the configuration found; an error is an object that was refused, whose last good version stays in force",
        [("error", Severity::Error), ("warning", Severity::Warning)]
            .map(|(name, severity)| (vec![("severity", name.to_owned())], found(severity) as f64)),
    );
}

/// What an agent knows and has counted. `refusals` are those before the gateway.
pub(super) fn agent(
    page: &mut Page,
    status: &AgentStatus,
    refusals: impl IntoIterator<Item = (Reason, u64)>,
    verdicts: Option<&Verdicts>,
) {
    let mut counters = status.counters.clone();
    page.counter(
        "egret_escaped",
        "Connections of workloads that were open to the outside though neither captured nor permitted; has to stay 0",
        counters.remove("escaped").unwrap_or_default(),
    );
    page.counter(
        "egret_agent_connections",
        "Captured connections that arrived at the agent",
        counters.remove("agent_accepted").unwrap_or_default(),
    );
    // Told by reason.
    counters.remove("agent_refused");
    page.counters(
        "egret_agent_refusals",
        "Captured connections that were refused before the gateway, by reason",
        refusals.into_iter().map(|(reason, count)| {
            let verdict = Verdict::of(reason).to_string();
            (vec![("verdict", verdict), ("reason", reason.as_str().to_owned())], count)
        }),
    );
    let decisions = Decision::ALL.iter().filter_map(|decision| {
        let count = counters.remove(decision.name())?;
        Some((vec![("decision", decision.name().to_owned())], count))
    });
    let decisions: Vec<_> = decisions.collect();
    page.counters(
        "egret_kernel_decisions",
        "Decisions of the kernel programs since they were first loaded, by name: connect() calls, sockets, packets",
        decisions,
    );
    page.counters(
        "egret_agent_events",
        "What else the agent counts, by the names of `egret status`",
        counters.into_iter().map(|(event, count)| (vec![("event", event)], count)),
    );
    workloads(page, &status.workloads);
    gateways(page, &status.gateways);
    page.gauge(
        "egret_agent_binding_problems",
        "What stands in the way of WorkloadBindings and pods",
        status.binding_problems.len() as f64,
    );
    if let Some(verdicts) = verdicts {
        pods(page, verdicts);
    }
}

fn workloads(page: &mut Page, workloads: &[WorkloadStatus]) {
    let origins = ["exec", "hand", "binding", "pod"].map(|origin| {
        let count = workloads.iter().filter(|status| origin_of(&status.workload.origin) == origin).count();
        (vec![("origin", origin.to_owned())], count as f64)
    });
    page.gauges("egret_workloads", "Workloads that are enrolled, by why", origins);
    let open = |lock: fn(&WorkloadStatus) -> &Lock| {
        workloads.iter().filter(|status| matches!(lock(status), Lock::Open(_))).count() as f64
    };
    page.gauges(
        "egret_workloads_open",
        "Workloads for which a lock does not hold, or nobody knows, by lock",
        [
            ("capture", open(|status| &status.locks.capture)),
            ("backstop", open(|status| &status.locks.backstop)),
            ("link", open(|status| &status.locks.link)),
        ]
        .map(|(lock, count)| (vec![("lock", lock.to_owned())], count)),
    );
    let sockets = |count: fn(&WorkloadStatus) -> usize| workloads.iter().map(count).sum::<usize>() as f64;
    page.gauges(
        "egret_workload_sockets",
        "Sockets of workloads that are not captured: connections older than the enrolment, and sockets that were made elsewhere",
        [("older", sockets(|status| status.sockets.older)), ("foreign", sockets(|status| status.sockets.foreign))]
            .map(|(kind, count)| (vec![("kind", kind.to_owned())], count)),
    );
}

fn origin_of(origin: &Origin) -> &'static str {
    match origin {
        Origin::Exec => "exec",
        Origin::Hand => "hand",
        Origin::Binding(_) => "binding",
        Origin::Pod { .. } => "pod",
    }
}

fn gateways(page: &mut Page, gateways: &[GatewayState]) {
    let (own, further) = gateways.split_at(gateways.len().min(MOST_GATEWAYS));
    let is_reachable = |state: &GatewayState| state.condition == Condition::Ready && state.problem.is_none();
    let labels = |state: &GatewayState| vec![("gateway", state.address.to_string())];
    let other = |value: f64| (!further.is_empty()).then(|| (vec![("gateway", OTHER.to_owned())], value));
    page.gauges(
        "egret_gateway_reachable",
        "Whether a gateway takes tunnels, as far as this agent knows: 1 or 0",
        own.iter()
            .map(|state| (labels(state), flag(is_reachable(state))))
            .chain(other(flag(further.iter().any(is_reachable)))),
    );
    page.gauges(
        "egret_gateway_connections",
        "Tunnel connections of this agent to a gateway",
        own.iter()
            .map(|state| (labels(state), state.connections as f64))
            .chain(other(further.iter().map(|state| state.connections).sum::<usize>() as f64)),
    );
}

fn pods(page: &mut Page, verdicts: &Verdicts) {
    let mut counts = BTreeMap::<(bool, &str), u32>::new();
    for (_, said) in verdicts.values() {
        *counts.entry((said.holds, &said.reason)).or_default() += 1;
    }
    page.gauges(
        "egret_pods",
        "Pods of the node that are or should be captured, or ask not to be, by the condition egret.dev/Captured",
        counts.into_iter().map(|((holds, reason), count)| {
            (vec![("captured", holds.to_string()), ("reason", reason.to_owned())], f64::from(count))
        }),
    );
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

#[cfg(test)]
mod tests;
