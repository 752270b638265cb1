//! The access log: one JSON line per HTTP request, or per connection that is not HTTP.
//!
//! `gateway` writes entries. Field names are those of Envoy and of Istio's default JSON format, so that people's greps
//! keep working, plus ours from `principal` on. Formatting and writing happen on a thread of their own behind a bounded
//! queue (`writer`): a slow disk or terminal costs log lines, which are counted, and never latency.

mod writer;

use std::{net::SocketAddr, sync::Arc};

use jiff::Timestamp;
use serde::Serialize;

pub use writer::AccessLog;

use crate::{flow::FlowId, reason::Reason};

/// One line. What is not known, or does not apply, is not in it; nor is `x_forwarded_for`, which Egret neither trusts nor tells.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// When the request, or the connection, began.
    pub start_time: Timestamp,
    /// HTTP method.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Path and query as they were sent, before normalisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `HTTP/1.1`, `HTTP/2`; absent for connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<&'static str>,
    /// HTTP status sent to the workload; 0 when none was, and for connections.
    pub response_code: u16,
    /// Status of a gRPC call, as its client sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u16>,
    /// Envoy's response flags, `-` when there are none.
    pub response_flags: &'static str,
    /// Who answered: `via_upstream`, or the reason.
    pub response_code_details: &'static str,
    /// What ended a connection early, as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_termination_details: Option<String>,
    /// The upstream's transport failure (connect, TLS), as a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_transport_failure_reason: Option<String>,
    /// Body bytes from the workload.
    pub bytes_received: u64,
    /// Body bytes to the workload.
    pub bytes_sent: u64,
    /// Milliseconds from first to last byte.
    pub duration: u64,
    /// Milliseconds from the request to the head of the upstream's answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_service_time: Option<u64>,
    /// `User-Agent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// `X-Request-Id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// `Host` or `:authority` as it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// The endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_host: Option<SocketAddr>,
    /// Such as `outbound|443||test.com`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_cluster: Option<Arc<str>>,
    /// Our end of the upstream connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_local_address: Option<SocketAddr>,
    /// The address the workload dialled.
    pub downstream_local_address: SocketAddr,
    /// The host that this address is synthetic for, where DNS is captured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialled_host: Option<Arc<str>>,
    /// The workload's address, as the gateway sees it.
    pub downstream_remote_address: SocketAddr,
    /// Server name of a TLS connection that passes through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requested_server_name: Option<String>,
    /// Route in force: the gateway stage's, else the mesh stage's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route_name: Option<Arc<str>>,
    /// Who asked.
    pub principal: Arc<str>,
    /// Why it ended.
    pub reason: Reason,
    /// The sentence behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason_detail: Option<String>,
    /// Joins agent and gateway.
    pub flow_id: FlowId,
    /// VirtualService of the mesh stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_route: Option<Arc<str>>,
    /// Gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Arc<str>>,
    /// VirtualService of the gateway stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_route: Option<Arc<str>>,
    /// ServiceEntry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_entry: Option<Arc<str>>,
    /// DestinationRule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_rule: Option<Arc<str>>,
    /// AuthorizationPolicy and rule that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Arc<str>>,
    /// `TLSv1.3` where TLS was originated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_tls_version: Option<&'static str>,
    /// Subject of the certificate the upstream presented.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_peer: Option<Arc<str>>,
}

impl Entry {
    /// A line about something that `principal` began at `start_time`; everything else is still unknown.
    pub fn new(
        start_time: Timestamp,
        principal: Arc<str>,
        flow_id: FlowId,
        original_destination: SocketAddr,
        source_address: SocketAddr,
    ) -> Self {
        Self {
            start_time,
            method: None,
            path: None,
            protocol: None,
            response_code: 0,
            grpc_status: None,
            response_flags: Reason::Completed.response_flags(),
            response_code_details: "via_upstream",
            connection_termination_details: None,
            upstream_transport_failure_reason: None,
            bytes_received: 0,
            bytes_sent: 0,
            duration: 0,
            upstream_service_time: None,
            user_agent: None,
            request_id: None,
            authority: None,
            upstream_host: None,
            upstream_cluster: None,
            upstream_local_address: None,
            downstream_local_address: original_destination,
            dialled_host: None,
            downstream_remote_address: source_address,
            requested_server_name: None,
            route_name: None,
            principal,
            reason: Reason::Completed,
            reason_detail: None,
            flow_id,
            mesh_route: None,
            gateway: None,
            gateway_route: None,
            service_entry: None,
            destination_rule: None,
            policy: None,
            upstream_tls_version: None,
            upstream_peer: None,
        }
    }
}

impl Entry {
    /// The name that was asked for, as it was sent.
    pub fn asked(&self) -> Option<&str> {
        self.authority.as_deref().or(self.requested_server_name.as_deref()).or(self.dialled_host.as_deref())
    }
}
