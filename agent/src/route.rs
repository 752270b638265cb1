//! The routing engine: request or connection + [`Snapshot`](crate::mesh::Snapshot) → [`RouteDecision`].
//!
//! Pure. Called by `gateway` for every request, and by `explain` with the same arguments. Does not authorize, resolve
//! names, pick endpoints or touch the network.

mod decision;

pub use decision::{
    Action, AppProtocol, Endpoints, Forward, HeaderOperations, LoadBalancer, RouteDecision, RoutePath,
    TlsMode, TlsOrigination, Upstream,
};

use std::net::SocketAddr;

use crate::mesh::SpiffeId;

/// What is known of a captured connection before its first byte is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// Who opened it.
    pub source: &'a SpiffeId,
    /// The address the workload dialled.
    pub original_destination: SocketAddr,
}

/// An HTTP request as routing and authorization see it: already normalised.
#[derive(Clone, Copy, Debug)]
pub struct HttpRequest<'a> {
    /// The method, case as sent.
    pub method: &'a str,
    /// Host without port, lower case, no trailing dot.
    pub host: &'a str,
    /// `Host`/`:authority` as sent; a VirtualService `authority` match sees this.
    pub authority: &'a str,
    /// Normalised path, without query.
    pub path: &'a str,
    /// Query, without `?`.
    pub query: Option<&'a str>,
    /// The headers as sent.
    pub headers: &'a http::HeaderMap,
}

/// Routes one HTTP request.
pub fn http(
    snapshot: &crate::mesh::Snapshot,
    connection: &Connection<'_>,
    request: &HttpRequest<'_>,
) -> RouteDecision {
    let _ = (snapshot, connection, request);
    unimplemented!()
}

/// Routes a TLS connection that passes through, by server name.
pub fn tls(
    snapshot: &crate::mesh::Snapshot,
    connection: &Connection<'_>,
    sni: Option<&str>,
) -> RouteDecision {
    let _ = (snapshot, connection, sni);
    unimplemented!()
}

/// Routes an opaque connection, by original destination.
pub fn tcp(snapshot: &crate::mesh::Snapshot, connection: &Connection<'_>) -> RouteDecision {
    let _ = (snapshot, connection);
    unimplemented!()
}

/// The protocol that the registered port at this original destination declares, before any byte is seen.
/// [`AppProtocol::Detect`] where none is declared or several services disagree.
pub fn declared_protocol(snapshot: &crate::mesh::Snapshot, connection: &Connection<'_>) -> AppProtocol {
    let _ = (snapshot, connection);
    unimplemented!()
}
