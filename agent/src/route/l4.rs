//! Connections that are not HTTP to the gateway: TLS by server name, anything else by the host or the address dialled.

use std::{borrow::Cow, sync::Arc};

use super::{
    Action, AppProtocol, Connection, Draw, Forward, RoutePath, Upstream, destination,
    stage::{self, Bound, Stage},
};
use crate::{
    mesh::{
        Few, GatewayName, HostPattern, L4Route, ServerKind, Service, Snapshot, VirtualService,
        upstream::Payload,
    },
    reason::{Reason, Refusal},
};

pub(super) fn tls(
    snapshot: &Snapshot,
    connection: &Connection<'_>,
    sni: Option<&str>,
    draw: Draw<'_>,
    path: &mut RoutePath,
) -> Result<Action, Refusal> {
    let Some(sni) = sni else {
        return by_destination(snapshot, connection, Payload::Tls, draw, path);
    };
    let is_lower = !sni.bytes().any(|byte| byte.is_ascii_uppercase());
    let name = if is_lower { Cow::Borrowed(sni) } else { Cow::Owned(sni.to_ascii_lowercase()) };
    let name = name.strip_suffix('.').unwrap_or(&name);
    let eyes = destination::eyes(snapshot, connection);
    let port = connection.original_destination.port();
    let services: Few<_> = stage::mesh_services(snapshot, name, eyes[1]).collect();
    if let Some(refusal) = stage::refused(snapshot, name, &services) {
        return Err(refusal);
    }
    if services.iter().any(|service| !service.tls.is_empty()) {
        let stage = Stage { gateway: &GatewayName::Mesh, port, namespace: eyes[1] };
        if let Some((service, route)) = find(&services, |s| &s.tls, &stage, connection, Some(name)) {
            return follow(snapshot, connection, (service, route), (Some(name), Payload::Tls), draw, path);
        }
    }
    let found = snapshot.registry.by_host(name, port, &eyes);
    let Some(service) = found else {
        let elsewhere = snapshot.registry.visible(name, &eyes).next().map(|service| &**service);
        let bytes = (connection, Payload::Tls);
        return destination::unregistered(snapshot, Some(name), bytes, elsewhere).map(forward);
    };
    by_registry(service, name, port, connection, Payload::Tls, path)
}

pub(super) fn tcp(
    snapshot: &Snapshot,
    connection: &Connection<'_>,
    draw: Draw<'_>,
    path: &mut RoutePath,
) -> Result<Action, Refusal> {
    by_destination(snapshot, connection, Payload::Clear, draw, path)
}

fn by_destination(
    snapshot: &Snapshot,
    connection: &Connection<'_>,
    payload: Payload,
    draw: Draw<'_>,
    path: &mut RoutePath,
) -> Result<Action, Refusal> {
    let eyes = destination::eyes(snapshot, connection);
    let claims = destination::claims(snapshot, connection);
    for (service, port) in &claims {
        let host = match (connection.dialled_host, &service.host) {
            (Some(dialled), _) => dialled,
            (None, HostPattern::Exact(host)) => host,
            (None, _) => continue,
        };
        let services: Few<_> = stage::mesh_services(snapshot, host, eyes[1]).collect();
        if connection.dialled_host.is_some()
            && let Some(refusal) = stage::refused(snapshot, host, &services)
        {
            return Err(refusal);
        }
        let stage = Stage { gateway: &GatewayName::Mesh, port: *port, namespace: eyes[1] };
        if let Some((service, route)) = find(&services, |s| &s.tcp, &stage, connection, None) {
            return follow(snapshot, connection, (service, route), (None, payload), draw, path);
        }
    }
    // Of several services at one address, one that takes such bytes.
    let fits = |(service, port): &&(&Arc<Service>, u16)| {
        service.ports.get(port).is_some_and(|port| takes(port.protocol))
    };
    let dialled = connection.dialled_host;
    if let Some((service, port)) = claims.iter().find(fits).or(claims.first()) {
        let host = match (dialled, &service.host) {
            (Some(dialled), _) => Cow::Borrowed(dialled),
            (None, HostPattern::Exact(host)) => Cow::Borrowed(&**host),
            (None, wildcard) => Cow::Owned(wildcard.to_string()),
        };
        return by_registry(service, &host, *port, connection, payload, path);
    }
    let elsewhere = dialled.and_then(|host| snapshot.registry.visible(host, &eyes).next());
    let bytes = (connection, payload);
    destination::unregistered(snapshot, dialled, bytes, elsewhere.map(|service| &**service)).map(forward)
}

/// A registered destination without a route. What the port declares must fit what arrived, so that opaque bytes are no way
/// around policies for HTTP.
fn by_registry(
    service: &Service,
    host: &str,
    port: u16,
    connection: &Connection<'_>,
    payload: Payload,
    path: &mut RoutePath,
) -> Result<Action, Refusal> {
    let entry = &service.entry(port).object;
    let declared = service.ports.get(&port).map_or(AppProtocol::Detect, |port| port.protocol);
    if !takes(declared) {
        path.service_entry = Some(entry.clone());
        return Err(Refusal::new(
            Reason::NoRoute,
            format!("{entry} declares HTTP on port {port} of {host}, but what arrived is not HTTP; declare TCP or TLS if that is meant"),
        )
        .by(entry.clone()));
    }
    destination::upstream(service, host, (port, None), connection, payload, path).map(forward)
}

/// Clear bytes for a port that requires TLS pass here, and are refused with the better reason by the upstream.
fn takes(declared: AppProtocol) -> bool {
    !matches!(declared, AppProtocol::Http | AppProtocol::Http2)
}

/// Follows a route of the mesh stage, through the gateway stage if it leads there.
fn follow(
    snapshot: &Snapshot,
    connection: &Connection<'_>,
    (service, route): (&VirtualService, &L4Route),
    (sni, payload): (Option<&str>, Payload),
    draw: Draw<'_>,
    path: &mut RoutePath,
) -> Result<Action, Refusal> {
    path.mesh_route = Some((service.object.clone(), Arc::clone(&route.name)));
    let to = pick(service, route, draw)?;
    if !snapshot.is_egress_gateway(&to.host) {
        return destination::resolve(snapshot, connection, to, payload, path).map(forward);
    }
    let port = to.port.unwrap_or(connection.original_destination.port());
    let kinds = if payload == Payload::Tls {
        &[ServerKind::Passthrough, ServerKind::Tcp][..]
    } else {
        &[ServerKind::Tcp][..]
    };
    // Several hosts may go through one port of the gateway: where one is known, only its routes count.
    let bound = stage::gateways(snapshot, port, sni.or(connection.dialled_host), kinds)?;
    for bound in &bound {
        let gateway = &bound.server.name;
        let stage = Stage { gateway, port, namespace: &snapshot.settings.gateway.namespace };
        let by_name = (bound.server.kind() == ServerKind::Passthrough)
            .then(|| find(&bound.services, |s| &s.tls, &stage, connection, sni))
            .flatten();
        let hit = by_name.or_else(|| find(&bound.services, |s| &s.tcp, &stage, connection, None));
        if let Some((service, route)) = hit {
            path.gateway = Some(bound.gateway());
            path.gateway_route = Some((service.object.clone(), Arc::clone(&route.name)));
            let to = pick(service, route, draw)?;
            return destination::resolve(snapshot, connection, to, payload, path).map(forward);
        }
    }
    path.gateway = bound.first().map(Bound::gateway);
    Err(Refusal::new(
        Reason::NoRoute,
        format!(
            "no VirtualService for the egress gateway has a tls or tcp route on port {port} that matches; bind one to the Gateway"
        ),
    ))
}

fn pick<'r>(
    service: &VirtualService,
    route: &'r L4Route,
    draw: Draw<'_>,
) -> Result<&'r crate::mesh::Destination, Refusal> {
    destination::pick(&route.destinations, draw).map(|to| &to.destination).ok_or_else(|| {
        Refusal::new(
            Reason::NoDestination,
            format!("route {} of {} has no destination with a weight", route.name, service.object),
        )
        .by(service.object.clone())
    })
}

fn find<'s>(
    services: &[&'s Arc<VirtualService>],
    routes: impl Fn(&'s VirtualService) -> &'s [L4Route],
    stage: &Stage<'_>,
    connection: &Connection<'_>,
    sni: Option<&str>,
) -> Option<(&'s VirtualService, &'s L4Route)> {
    let address = connection.original_destination.ip();
    services.iter().find_map(|&service| {
        let route = routes(service).iter().find(|route| {
            route.matches.is_empty()
                || route.matches.iter().any(|wanted| {
                    stage.takes(&wanted.gateways, wanted.port, wanted.source_namespace.as_deref())
                        && wanted.takes_address(address)
                        && (wanted.sni_hosts.is_empty()
                            || sni.is_some_and(|sni| wanted.sni_hosts.iter().any(|host| host.matches(sni))))
                })
        })?;
        Some((&**service, route))
    })
}

fn forward(upstream: Arc<Upstream>) -> Action {
    Action::Forward(Forward {
        upstream,
        path_and_query: None,
        authority: None,
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        timeout: None,
    })
}
