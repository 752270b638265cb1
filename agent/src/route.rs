//! The routing engine: request or connection + [`Snapshot`](crate::mesh::Snapshot) → [`RouteDecision`].
//!
//! Pure. Called by `gateway` for every request, and by `explain` with the same arguments. Does not authorize, resolve
//! names, pick endpoints or touch the network.

mod decision;
mod destination;
mod effects;
mod l4;
mod matching;
mod requests;
mod stage;
#[cfg(test)]
mod tests;

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
    /// The host that this address is synthetic for: then the address itself leads nowhere, and only its port counts.
    pub dialled_host: Option<&'a str>,
}

impl Connection<'_> {
    /// The address that was dialled, where it is one.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.dialled_host.is_none().then_some(self.original_destination)
    }
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

/// Chooses among weighted destinations: gets the sum of all weights, which is not 0, and answers below it.
pub type Draw<'a> = &'a mut dyn FnMut(u32) -> u32;

/// Routes one HTTP request.
pub fn http(
    snapshot: &crate::mesh::Snapshot,
    connection: &Connection<'_>,
    request: &HttpRequest<'_>,
) -> RouteDecision {
    http_drawn(snapshot, connection, request, &mut random)
}

/// [`http()`] with the choice among weighted destinations in the caller's hand.
pub fn http_drawn(
    snapshot: &crate::mesh::Snapshot,
    connection: &Connection<'_>,
    request: &HttpRequest<'_>,
    draw: Draw<'_>,
) -> RouteDecision {
    let mut path = RoutePath::default();
    let outcome = requests::route(snapshot, connection, request, draw, &mut path);
    RouteDecision { path, outcome }
}

/// Routes a TLS connection that passes through, by server name.
pub fn tls(
    snapshot: &crate::mesh::Snapshot,
    connection: &Connection<'_>,
    sni: Option<&str>,
) -> RouteDecision {
    let mut path = RoutePath::default();
    let outcome = l4::tls(snapshot, connection, sni, &mut random, &mut path);
    RouteDecision { path, outcome }
}

/// Routes an opaque connection, by the host or the address dialled.
pub fn tcp(snapshot: &crate::mesh::Snapshot, connection: &Connection<'_>) -> RouteDecision {
    let mut path = RoutePath::default();
    let outcome = l4::tcp(snapshot, connection, &mut random, &mut path);
    RouteDecision { path, outcome }
}

/// The protocol that the registered port at this original destination declares, before any byte is seen.
/// [`AppProtocol::Detect`] where none is declared or several services disagree.
pub fn declared_protocol(snapshot: &crate::mesh::Snapshot, connection: &Connection<'_>) -> AppProtocol {
    let mut found = None;
    for (service, port) in destination::claims(snapshot, connection) {
        let Some(declared) = service.ports.get(&port).map(|port| port.protocol) else { continue };
        if found.is_some_and(|other| other != declared) {
            return AppProtocol::Detect;
        }
        found = Some(declared);
    }
    found.unwrap_or(AppProtocol::Detect)
}

fn random(total: u32) -> u32 {
    rand::random_range(0..total)
}
