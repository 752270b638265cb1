//! The authorization engine: request + [`Snapshot`](crate::mesh::Snapshot) → [`Decision`].
//!
//! Pure. Called by `gateway` before routing, and by `explain`. Istio's order: CUSTOM (refused when configured), DENY,
//! then ALLOW. Does not answer clients.

use std::net::SocketAddr;

use crate::{
    mesh::{ObjectRef, SpiffeId},
    route::HttpRequest,
};

/// What a policy can look at. `http` is absent for opaque and TLS connections.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The verified caller.
    pub source: &'a SpiffeId,
    /// The caller's address as the gateway sees it.
    pub source_address: SocketAddr,
    /// The address the workload dialled: its port is the destination port of policies.
    pub original_destination: SocketAddr,
    /// Server name of a TLS connection that passes through, lower case.
    pub sni: Option<&'a str>,
    /// The HTTP request, normalised.
    pub http: Option<&'a HttpRequest<'a>>,
}

/// The outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Allowed: by the ALLOW policy named, or because no ALLOW policy is in force.
    Allow(Option<PolicyRule>),
    /// Denied: by the DENY policy named, or because ALLOW policies are in force and none matched.
    Deny(Option<PolicyRule>),
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// The AuthorizationPolicy.
    pub policy: ObjectRef,
    /// Index into its `spec.rules`.
    pub rule: usize,
}

/// Evaluates the policies in force.
pub fn evaluate(snapshot: &crate::mesh::Snapshot, request: &Request<'_>) -> Decision {
    let _ = (snapshot, request);
    unimplemented!()
}
