//! Why a connection or request ended: one bounded list for access log, flow records, metrics, HTTP bodies and CLI.
//!
//! Everything that refuses or fails names a [`Reason`]; nothing else decides a status code. Does not format logs.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::mesh::ObjectRef;

/// Why a connection or request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It ended the way its two ends wanted.
    Completed,
    /// The kernel programs let it go directly: to a bypassed range, to a resolver, or because the agent was down and the policy says so.
    Bypassed,
    /// The kernel programs refused the call: what the gateway cannot carry does not leave.
    KernelRefused,
    /// An AuthorizationPolicy denied it, or none of the ALLOW policies in force matched.
    PolicyDenied,
    /// The host is in no ServiceEntry, and `outboundTrafficPolicy` is `REGISTRY_ONLY`.
    NotRegistered,
    /// The address dialled is a synthetic one of DNS capture that stands for no registered host (any more).
    StaleAddress,
    /// It reached the egress gateway stage, and no Gateway server or VirtualService there matches it.
    NoRoute,
    /// A route points at a host, port or subset that does not exist.
    NoDestination,
    /// The destination has no usable endpoint.
    NoEndpoint,
    /// Plain bytes for a port declared HTTPS or TLS, and no DestinationRule originates TLS.
    TlsRequired,
    /// The credential a DestinationRule names is missing, incomplete, expired or not readable.
    Credential,
    /// The name of the upstream could not be resolved.
    UpstreamResolve,
    /// The upstream refused the connection or was not reachable.
    UpstreamConnect,
    /// The TLS handshake with the upstream failed, verification of its certificate included.
    UpstreamTls,
    /// The upstream ended the connection before it answered.
    UpstreamReset,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// The request breaks the HTTP rules (RFC 9110, RFC 9112).
    BadRequest,
    /// No egress gateway could be reached.
    GatewayUnreachable,
    /// The egress gateway refused the tunnel.
    GatewayRefused,
    /// The workload has no valid certificate, and none could be had.
    IdentityUnavailable,
    /// The listener accepted a connection whose original destination is not known.
    OriginalDestinationMiss,
    /// The client went away before its connection could be served.
    ClientGone,
    /// The process is ending.
    Draining,
    /// A fault of Egret itself.
    Internal,
}

impl Reason {
    /// Every reason, in declaration order.
    pub const ALL: [Self; 24] = [
        Self::Completed,
        Self::Bypassed,
        Self::KernelRefused,
        Self::PolicyDenied,
        Self::NotRegistered,
        Self::StaleAddress,
        Self::NoRoute,
        Self::NoDestination,
        Self::NoEndpoint,
        Self::TlsRequired,
        Self::Credential,
        Self::UpstreamResolve,
        Self::UpstreamConnect,
        Self::UpstreamTls,
        Self::UpstreamReset,
        Self::UpstreamTimeout,
        Self::BadRequest,
        Self::GatewayUnreachable,
        Self::GatewayRefused,
        Self::IdentityUnavailable,
        Self::OriginalDestinationMiss,
        Self::ClientGone,
        Self::Draining,
        Self::Internal,
    ];

    /// The name in logs, metrics, JSON and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Bypassed => "bypassed",
            Self::KernelRefused => "kernel_refused",
            Self::PolicyDenied => "policy_denied",
            Self::NotRegistered => "not_registered",
            Self::StaleAddress => "stale_address",
            Self::NoRoute => "no_route",
            Self::NoDestination => "no_destination",
            Self::NoEndpoint => "no_endpoint",
            Self::TlsRequired => "tls_required",
            Self::Credential => "credential",
            Self::UpstreamResolve => "upstream_resolve",
            Self::UpstreamConnect => "upstream_connect",
            Self::UpstreamTls => "upstream_tls",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::BadRequest => "bad_request",
            Self::GatewayUnreachable => "gateway_unreachable",
            Self::GatewayRefused => "gateway_refused",
            Self::IdentityUnavailable => "identity_unavailable",
            Self::OriginalDestinationMiss => "original_destination_miss",
            Self::ClientGone => "client_gone",
            Self::Draining => "draining",
            Self::Internal => "internal",
        }
    }

    /// The status an HTTP client gets. Istio's sidecar answers 502 for an unregistered host, its gateway 404 for an
    /// unmatched one, and Envoy 503 or 504 for what goes wrong upstream.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Completed | Self::Bypassed => 200,
            Self::PolicyDenied | Self::KernelRefused => 403,
            Self::NotRegistered | Self::StaleAddress => 502,
            Self::NoRoute => 404,
            Self::BadRequest => 400,
            Self::UpstreamTimeout => 504,
            Self::NoDestination
            | Self::NoEndpoint
            | Self::TlsRequired
            | Self::Credential
            | Self::UpstreamResolve
            | Self::UpstreamConnect
            | Self::UpstreamTls
            | Self::UpstreamReset
            | Self::GatewayUnreachable
            | Self::GatewayRefused
            | Self::IdentityUnavailable
            | Self::OriginalDestinationMiss
            | Self::ClientGone
            | Self::Draining
            | Self::Internal => 503,
        }
    }

    /// Envoy's `response_flags` for the same ending
    /// (Envoy reference, "Access logging: response flags"), `-` where it has none.
    pub const fn response_flags(self) -> &'static str {
        match self {
            Self::Completed | Self::Bypassed | Self::KernelRefused | Self::PolicyDenied | Self::Internal => {
                "-"
            }
            Self::NotRegistered | Self::StaleAddress | Self::NoRoute => "NR",
            Self::NoDestination => "NC",
            Self::NoEndpoint => "UH",
            Self::TlsRequired
            | Self::Credential
            | Self::UpstreamConnect
            | Self::UpstreamTls
            | Self::GatewayUnreachable
            | Self::GatewayRefused => "UF",
            Self::UpstreamResolve => "DF",
            Self::UpstreamReset => "UC",
            Self::UpstreamTimeout => "UT",
            Self::BadRequest => "DPE",
            Self::IdentityUnavailable | Self::OriginalDestinationMiss | Self::Draining => "LR",
            Self::ClientGone => "DC",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal or failure: the reason, a sentence for the operator, and the object behind it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// What happened and what to do about it, as one sentence for an operator.
    pub detail: String,
    /// The object that decided it, where there is one.
    pub object: Option<ObjectRef>,
}

impl Refusal {
    /// A refusal that no object is behind.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into(), object: None }
    }

    /// The same refusal, decided by `object`.
    #[must_use]
    pub fn by(mut self, object: ObjectRef) -> Self {
        self.object = Some(object);
        self
    }
}
