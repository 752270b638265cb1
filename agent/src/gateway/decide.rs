//! Authorization, then routing: the one place that calls the pure engines on the data path.
//!
//! `http`, `tls` and `opaque` are handed one of these functions; their tests hand them others.

use crate::{
    authz::{self, Decision, PolicyRule},
    mesh::Snapshot,
    reason::{Reason, Refusal},
    route::{self, Action, Connection, RouteDecision, RoutePath},
};

/// What becomes of a request or connection, and who said so.
pub(super) struct Decided {
    /// The policy rule that allowed or denied it.
    pub(super) policy: Option<PolicyRule>,
    /// The objects on the way.
    pub(super) path: RoutePath,
    /// What to do, or why not.
    pub(super) outcome: Result<Action, Refusal>,
}

/// Decides about an HTTP request.
pub(super) fn http(snapshot: &Snapshot, request: &authz::Request<'_>) -> Decided {
    after_authorization(snapshot, request, |connection| match request.http {
        Some(http) => route::http(snapshot, connection, http),
        None => route::tcp(snapshot, connection),
    })
}

/// Decides about a TLS connection that passes through.
pub(super) fn tls(snapshot: &Snapshot, request: &authz::Request<'_>) -> Decided {
    after_authorization(snapshot, request, |connection| route::tls(snapshot, connection, request.sni))
}

/// Decides about an opaque connection.
pub(super) fn tcp(snapshot: &Snapshot, request: &authz::Request<'_>) -> Decided {
    after_authorization(snapshot, request, |connection| route::tcp(snapshot, connection))
}

fn after_authorization(
    snapshot: &Snapshot,
    request: &authz::Request<'_>,
    route: impl FnOnce(&Connection<'_>) -> RouteDecision,
) -> Decided {
    match authz::evaluate(snapshot, request) {
        Decision::Deny(policy) => {
            let detail = match &policy {
                Some(PolicyRule { policy, rule }) => format!("denied by rule {rule} of {policy}"),
                None => "ALLOW policies are in force, and none of their rules matches".to_owned(),
            };
            let mut refusal = Refusal::new(Reason::PolicyDenied, detail);
            refusal.object = policy.as_ref().map(|policy| policy.policy.clone());
            Decided { policy, path: RoutePath::default(), outcome: Err(refusal) }
        }
        Decision::Allow(policy) => {
            let connection = Connection {
                source: request.source,
                original_destination: request.original_destination,
                dialled_host: request.dialled_host,
            };
            let RouteDecision { path, outcome } = route(&connection);
            Decided { policy, path, outcome }
        }
    }
}
