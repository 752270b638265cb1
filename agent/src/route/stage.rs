//! Where a route is being looked for: the mesh stage, or the gateway stage behind a port of the egress gateway.

use std::sync::Arc;

use crate::{
    mesh::{GatewayName, HostPattern, ObjectRef, ServerKind, Snapshot, VirtualService},
    reason::{Reason, Refusal},
};

/// One stage, as the `match` of a route sees it.
pub(super) struct Stage<'a> {
    /// Where.
    pub(super) gateway: GatewayName,
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
        (gateways.is_empty() || gateways.contains(&self.gateway))
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
    let visible = |service: &&Arc<VirtualService>| service.export_to.visible(&[client]);
    let table = &snapshot.mesh_routes;
    let list = table.candidates(host).find(|list| list.iter().any(|service| visible(&service)));
    list.into_iter().flatten().filter(move |service| service.export_to.visible(&[client]))
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
    /// The Gateway.
    pub(super) gateway: &'s ObjectRef,
    /// Its name, as routes refer to it.
    pub(super) name: GatewayName,
    /// What the server takes in.
    pub(super) kind: ServerKind,
    /// VirtualServices, in the order in which their routes are tried.
    pub(super) services: Vec<&'s Arc<VirtualService>>,
}

/// The Gateways whose servers take `host` (`None`: any host, for connections without a name) on `port`; the one with the
/// most specific VirtualService first.
pub(super) fn gateways<'s>(
    snapshot: &'s Snapshot,
    port: u16,
    host: Option<&str>,
    kinds: &[ServerKind],
) -> Result<Vec<Bound<'s>>, Refusal> {
    let own = &*snapshot.settings.gateway.namespace;
    let mut found: Vec<((u8, usize), Bound<'s>)> = Vec::new();
    let mut port_exists = false;
    for gateway in &snapshot.gateways {
        for server in gateway.servers.iter().filter(|s| s.port == port && kinds.contains(&s.kind)) {
            port_exists = true;
            let named: Vec<_> = server
                .hosts
                .iter()
                .filter(|served| host.is_none_or(|host| served.host.matches(host)))
                .collect();
            if named.is_empty() {
                continue;
            }
            let key = (Arc::clone(&gateway.object.namespace), Arc::clone(&gateway.object.name));
            let bound = |service: &&Arc<VirtualService>| {
                service.export_to.visible(&[own])
                    && named.iter().any(|served| {
                        served.namespace.as_ref().is_none_or(|ns| *ns == service.object.namespace)
                            && service.hosts.iter().any(|pattern| pattern.overlaps(&served.host))
                    })
            };
            let table = snapshot.gateway_routes.get(&key);
            let mut services: Vec<&Arc<VirtualService>> = match (table, host) {
                (None, _) => Vec::new(),
                (Some(table), Some(host)) => table
                    .candidates(host)
                    .map(|list| list.iter().filter(bound).collect::<Vec<_>>())
                    .find(|list| !list.is_empty())
                    .unwrap_or_default(),
                (Some(table), None) => table.values().flatten().filter(bound).collect(),
            };
            if host.is_none() {
                services.sort_by(|a, b| (&a.created, &a.object).cmp(&(&b.created, &b.object)));
                services.dedup_by(|a, b| a.object == b.object);
            }
            let specificity = services
                .iter()
                .flat_map(|service| &service.hosts)
                .filter(|pattern| host.is_none_or(|host| pattern.matches(host)))
                .map(HostPattern::specificity)
                .max()
                .unwrap_or_default();
            let name = GatewayName::Named { namespace: key.0, name: key.1 };
            found.push((specificity, Bound { gateway: &gateway.object, name, kind: server.kind, services }));
        }
    }
    if found.is_empty() {
        let what = host.map(|host| format!(" that serves {host}")).unwrap_or_default();
        let detail = if port_exists {
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
    found.sort_by_key(|(specificity, _)| std::cmp::Reverse(*specificity));
    Ok(found.into_iter().map(|(_, bound)| bound).collect())
}
