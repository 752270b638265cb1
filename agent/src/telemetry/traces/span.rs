//! What a span says: OpenTelemetry's semantic conventions for HTTP clients, Envoy's tags that people know, and `egret.*`.
//!
//! Pure; all of it is taken from the line of the access log, so that the two cannot disagree. The query of a request is left out:
//! it may hold secrets, and collectors are read by more people than the gateway's log.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue, Value,
    trace::{SpanId, SpanKind, Status},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::context::Begun;
use crate::{flow::Verdict, mesh::without_port, reason::Reason, telemetry::access_log::Entry};

/// Longest text of a value that the workload chooses (Envoy's `max_path_tag_length`).
const MAX_TEXT: usize = 256;
/// Methods that HTTP has registered and people use; another one is `_OTHER` (semantic conventions).
const METHODS: [&str; 9] = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE"];

/// A traced request or connection that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The span.
    pub begun: Begun,
    /// What happened.
    pub entry: Entry,
    /// How long it took.
    pub took: Duration,
    /// The workload's name, as its agent gives it.
    pub workload: Option<Arc<str>>,
    /// The object behind a refusal.
    pub object: Option<String>,
}

/// The span to send.
pub(super) fn data(finished: Finished) -> SpanData {
    let start_time = SystemTime::from(finished.entry.start_time);
    let attributes = attributes(&finished);
    let Finished { begun, entry, took, .. } = finished;
    SpanData {
        parent_span_id: begun.parent.unwrap_or(SpanId::INVALID),
        parent_span_is_remote: begun.parent.is_some(),
        span_context: begun.context,
        // As Envoy's, of whom leaves the mesh.
        span_kind: SpanKind::Client,
        name: name(&entry).into(),
        start_time,
        end_time: start_time + took,
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: error(&entry)
            .map_or(Status::Unset, |error| Status::error(entry.reason_detail.clone().unwrap_or(error))),
        instrumentation_scope: InstrumentationScope::builder("egret")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    }
}

/// Few different ones: the method, or what the connection is, and the registered host.
fn name(entry: &Entry) -> String {
    let what = match &entry.method {
        Some(method) => known(method),
        None if entry.requested_server_name.is_some() => "TLS",
        None => "TCP",
    };
    let what = if what == "_OTHER" { "HTTP" } else { what };
    // outbound|443|subset|host
    match entry.upstream_cluster.as_deref().and_then(|cluster| cluster.rsplit('|').next()) {
        Some(host) => format!("{what} {host}"),
        None => what.to_owned(),
    }
}

fn known(method: &str) -> &str {
    if METHODS.contains(&method) { method } else { "_OTHER" }
}

/// What kind of error it is, if it is one: the reason, or the status of an upstream that answered so.
fn error(entry: &Entry) -> Option<String> {
    if Verdict::of(entry.reason) != Verdict::Allowed || entry.reason == Reason::ClientGone {
        return Some(entry.reason.as_str().to_owned());
    }
    (entry.response_code >= 400).then(|| entry.response_code.to_string())
}

fn attributes(finished: &Finished) -> Vec<KeyValue> {
    let Finished { entry, workload, object, .. } = finished;
    let mut all = Vec::with_capacity(32);
    let mut add = |key: &'static str, value: Option<Value>| {
        all.extend(value.map(|value| KeyValue::new(key, value)));
    };
    let number = |value: u64| Value::I64(i64::try_from(value).unwrap_or(i64::MAX));
    let text = |value: &str| Value::from(value.chars().take(MAX_TEXT).collect::<String>());
    add("server.address", entry.asked().map(|host| text(without_port(host))));
    add("server.port", Some(number(entry.downstream_local_address.port().into())));
    if let Some(method) = &entry.method {
        add("http.request.method", Some(known(method).to_owned().into()));
        add("http.request.method_original", (known(method) == "_OTHER").then(|| text(method)));
        add("url.scheme", Some("http".into()));
        let path = entry.path.as_deref().map(|path| path.split('?').next().unwrap_or_default());
        add("url.path", path.map(text));
        add("user_agent.original", entry.user_agent.as_deref().map(text));
        add("guid:x-request-id", entry.request_id.as_deref().map(text));
    }
    if let Some(protocol) = entry.protocol {
        add("network.protocol.version", protocol.strip_prefix("HTTP/").map(Value::from));
    }
    if entry.response_code != 0 {
        add("http.response.status_code", Some(number(entry.response_code.into())));
    }
    add("rpc.system", entry.grpc_status.map(|_| "grpc".into()));
    add("rpc.grpc.status_code", entry.grpc_status.map(|status| number(status.into())));
    add("error.type", error(entry).map(Value::from));
    if let Some(upstream) = entry.upstream_host {
        add("network.peer.address", Some(upstream.ip().to_string().into()));
        add("network.peer.port", Some(number(upstream.port().into())));
    }
    add(
        "tls.protocol.version",
        entry
            .upstream_tls_version
            .map(|version| Value::from(version.strip_prefix("TLSv").unwrap_or(version))),
    );
    // Envoy's.
    add("upstream_cluster", entry.upstream_cluster.clone().map(Value::from));
    add("response_flags", Some(entry.response_flags.into()));
    add("request_size", Some(number(entry.bytes_received)));
    add("response_size", Some(number(entry.bytes_sent)));
    add("peer.address", Some(entry.downstream_remote_address.ip().to_string().into()));
    // Ours.
    add("egret.flow.id", Some(entry.flow_id.to_string().into()));
    add("egret.verdict", Some(Verdict::of(entry.reason).to_string().into()));
    add("egret.reason", Some(entry.reason.as_str().into()));
    add("egret.object", object.clone().map(Value::from));
    add("egret.policy", entry.policy.clone().map(Value::from));
    let route = entry.gateway_route.as_ref().or(entry.mesh_route.as_ref());
    add("egret.route", route.cloned().map(Value::from));
    add("egret.principal", Some(Arc::clone(&entry.principal).into()));
    add("egret.workload", workload.clone().map(Value::from));
    all
}
