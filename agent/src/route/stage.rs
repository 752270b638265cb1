//! Where a route is being looked for: the mesh stage, or the gateway stage behind a port of the egress gateway.

use std::{cmp::Reverse, sync::Arc};

use crate::{
    mesh::{
        Few, GatewayName, HostPattern, ObjectRef, ServerKind, Snapshot, VirtualService,
        gateways::{BoundServer, Served},
    },
    reason::{Reason, Refusal},
};

/// One stage, as the `match` of a route sees it.
pub(super) struct Stage<'a> {
    /// Where.
    pub(super) gateway: &'a GatewayName,
    /// The port dialled, or the server's.
    pub(super) port: u16,
    /// Namespace of the client in the mesh stage, of the gateway in its own.
    pub(super) namespace: &'a str,
}

impl Stage<'_> {
    /// Whether the `gateways`, `port` and `sourceNamespace` of a match hold here.
    pub(super) fn takes(
        &self,
        gateways: &[GatewayName],
        port: Option<u16>,
        source_namespace: Option<&str>,
    ) -> bool {
        (gateways.is_empty() || gateways.contains(self.gateway))
            && port.is_none_or(|port| port == self.port)
            && source_namespace.is_none_or(|namespace| namespace == self.namespace)
    }
}

/// The VirtualServices of the most specific host that means `host` in the mesh stage.
pub(super) fn mesh_services<'s>(
    snapshot: &'s Snapshot,
    host: &str,
    client: &str,
) -> impl Iterator<Item = &'s Arc<VirtualService>> {
    let lists = snapshot.mesh_routes.candidates(host).map(|services| services.visible(&[client, client]));
    lists
        .map(Iterator::peekable)
        .find_map(|mut list| list.peek().is_some().then_some(list))
        .into_iter()
        .flatten()
}

/// The refusal for a host whose VirtualService is not valid, unless a valid one is at least as specific.
pub(super) fn refused(snapshot: &Snapshot, host: &str, valid: &[&Arc<VirtualService>]) -> Option<Refusal> {
    let (pattern, object) = snapshot.refused_routes.candidates(host).flatten().next()?;
    let best = valid
        .iter()
        .flat_map(|service| &service.hosts)
        .filter(|pattern| pattern.matches(host))
        .map(HostPattern::specificity)
        .max();
    if best.is_some_and(|best| best >= pattern.specificity()) {
        return None;
    }
    let detail =
        format!("{object} for {pattern} is not valid, so where {host} goes is not known; correct it");
    Some(Refusal::new(Reason::NoRoute, detail).by(object.clone()))
}

/// A Gateway that has a server for this port and host, and the VirtualServices bound to it.
pub(super) struct Bound<'s> {
    /// The server.
    pub(super) server: &'s BoundServer,
    /// VirtualServices, in the order in which their routes are tried.
    pub(super) services: Few<&'s Arc<VirtualService>>,
    /// How specific the host is that they are for.
    specificity: (u8, usize),
}

impl Bound<'_> {
    /// The Gateway.
    pub(super) fn gateway(&self) -> ObjectRef {
        self.server.gateway.object.clone()
    }
}

/// The Gateways whose servers take `host` (`None`: any host, for connections without a name) on `port`; the one with the
/// most specific VirtualService first.
pub(super) fn gateways<'s>(
    snapshot: &'s Snapshot,
    port: u16,
    host: Option<&str>,
    kinds: &[ServerKind],
) -> Result<Few<Bound<'s>>, Refusal> {
    let mut found = match host {
        Some(host) => by_name(snapshot, port, host, kinds),
        None => nameless(snapshot, port, kinds),
    };
    if found.is_empty() {
        let what = host.map(|host| format!(" that serves {host}")).unwrap_or_default();
        let detail = if snapshot.gateways.has(port, kinds) {
            format!(
                "no Gateway of the egress gateway has a server on port {port}{what}; add the host to its hosts"
            )
        } else {
            format!(
                "a route leads to the egress gateway's port {port}, but no Gateway that selects it has a fitting server there; add one"
            )
        };
        return Err(Refusal::new(Reason::NoRoute, detail));
    }
    found.sort_unstable_by_key(|bound| (Reverse(bound.specificity), bound.server.order));
    Ok(found)
}

fn by_name<'s>(snapshot: &'s Snapshot, port: u16, host: &str, kinds: &[ServerKind]) -> Few<Bound<'s>> {
    let own = &*snapshot.settings.gateway.namespace;
    let mut served: Few<&Served> = snapshot.gateways.serving(port, kinds, host).collect();
    served.sort_unstable_by_key(|served| served.server.order);
    let bound = |hosts: &[&'s Served]| {
        let server: &'s BoundServer = &hosts[0].server;
        let takes = |service: &&Arc<VirtualService>| hosts.iter().any(|served| served.host().takes(service));
        let lists = server.routes.ranked(host).map(|(specificity, services)| {
            let services: Few<_> = services.visible(&[own, own]).filter(takes).collect();
            Bound { server, services, specificity }
        });
        let none = Bound { server, services: Few::new(), specificity: (0, 0) };
        lists.into_iter().find(|bound| !bound.services.is_empty()).unwrap_or(none)
    };
    served.chunk_by(|a, b| a.server.order == b.server.order).map(bound).collect()
}

fn nameless<'s>(snapshot: &'s Snapshot, port: u16, kinds: &[ServerKind]) -> Few<Bound<'s>> {
    let servers = snapshot.gateways.servers(port, kinds).filter(|server| !server.hosts().is_empty());
    let bound = |server: &'s Arc<BoundServer>| {
        let nameless = server.nameless();
        Bound { server, services: nameless.services.iter().collect(), specificity: nameless.specificity }
    };
    servers.map(bound).collect()
}
