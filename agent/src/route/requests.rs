//! HTTP requests: mesh stage, gateway stage, destination.

use std::{borrow::Cow, sync::Arc};

use super::{
    Action, Connection, Draw, Forward, HttpRequest, RoutePath, Upstream, destination,
    effects::{Effects, answer},
    matching::matching,
    stage::{self, Bound, Stage},
};
use crate::{
    mesh::{
        Few, GatewayName, HttpAction, HttpMatch, HttpRoute, ObjectRef, ServerKind, Snapshot, VirtualService,
        WeightedDestination, upstream::Payload,
    },
    reason::{Reason, Refusal},
};

/// A route that a request meets.
struct Hit<'s> {
    service: &'s VirtualService,
    route: &'s HttpRoute,
    matched: &'s HttpMatch,
}

impl Hit<'_> {
    fn named(&self) -> (ObjectRef, Arc<str>) {
        (self.service.object.clone(), Arc::clone(&self.route.name))
    }
}

pub(super) fn route(
    snapshot: &Snapshot,
    connection: &Connection<'_>,
    request: &HttpRequest<'_>,
    draw: Draw<'_>,
    path: &mut RoutePath,
) -> Result<Action, Refusal> {
    let port = connection.original_destination.port();
    let client = connection.source.namespace();
    let eyes = destination::eyes(snapshot, connection);
    let mut effects = Effects::default();
    let registered = snapshot.registry.by_host(request.host, port, &eyes);
    if registered.is_none()
        && let Some(elsewhere) = snapshot.registry.visible(request.host, &eyes).next()
    {
        let bytes = (connection, Payload::Clear);
        let to = destination::unregistered(snapshot, Some(request.host), bytes, Some(elsewhere))?;
        return Ok(forward(to, effects));
    }

    let stage = Stage { gateway: &GatewayName::Mesh, port, namespace: client };
    let services: Few<_> =
        stage::mesh_services(snapshot, request.host, client).filter(|s| !s.http.is_empty()).collect();
    if let Some(refusal) = stage::refused(snapshot, request.host, &services) {
        return Err(refusal);
    }
    if services.is_empty() {
        // No VirtualService: enrolment itself means "through the gateway", so the registry decides.
        let to = match registered {
            Some(service) => {
                destination::upstream(service, request.host, (port, None), connection, Payload::Clear, path)?
            }
            None => {
                destination::unregistered(snapshot, Some(request.host), (connection, Payload::Clear), None)?
            }
        };
        return Ok(forward(to, effects));
    }
    let hit = find(&services, &stage, request)
        .ok_or_else(|| unmatched(&services, "in the mesh stage", port, request))?;
    path.mesh_route = Some(hit.named());
    if let Some(answer) = answer(&hit.route.action, request, port) {
        return Ok(answer);
    }
    let (to, count) = choose(&hit, draw)?;
    effects.add(hit.route, hit.matched, to, count, request);
    if !snapshot.is_egress_gateway(&to.destination.host) {
        let to = destination::resolve(snapshot, connection, &to.destination, Payload::Clear, path)
            .map_err(|refusal| blame(refusal, &hit))?;
        return Ok(forward(to, effects));
    }

    let gateway_port = to.destination.port.unwrap_or(port);
    let carried = Carried::new(&effects, request);
    gateway_stage(snapshot, connection, (gateway_port, carried.view(request)), draw, (effects, path))
}

fn gateway_stage(
    snapshot: &Snapshot,
    connection: &Connection<'_>,
    (port, request): (u16, HttpRequest<'_>),
    draw: Draw<'_>,
    (mut effects, path): (Effects, &mut RoutePath),
) -> Result<Action, Refusal> {
    let bound = stage::gateways(snapshot, port, Some(request.host), &[ServerKind::Http])?;
    let found = bound.iter().find_map(|bound| {
        let gateway = &bound.server.name;
        let stage = Stage { gateway, port, namespace: &snapshot.settings.gateway.namespace };
        Some((bound, find(&bound.services, &stage, &request)?))
    });
    let Some((bound, hit)) = found else {
        path.gateway = bound.first().map(Bound::gateway);
        let services: Vec<_> = bound.iter().flat_map(|bound| bound.services.iter().copied()).collect();
        return Err(unmatched(&services, "for the egress gateway", port, &request));
    };
    path.gateway = Some(bound.gateway());
    path.gateway_route = Some(hit.named());
    if let Some(answer) = answer(&hit.route.action, &request, port) {
        return Ok(answer);
    }
    let (to, count) = choose(&hit, draw)?;
    effects.add(hit.route, hit.matched, to, count, &request);
    let to = destination::resolve(snapshot, connection, &to.destination, Payload::Clear, path)
        .map_err(|refusal| blame(refusal, &hit))?;
    Ok(forward(to, effects))
}

/// What the mesh stage made of a request, for the gateway stage to look at.
struct Carried<'a> {
    path: Option<String>,
    query: Option<Cow<'a, str>>,
    host: Option<String>,
    authority: Option<String>,
    headers: Option<http::HeaderMap>,
}

impl<'a> Carried<'a> {
    fn new(effects: &Effects, request: &HttpRequest<'a>) -> Self {
        let (path, query) = match &effects.path_and_query {
            None => (None, request.query.map(Cow::Borrowed)),
            Some(target) => match target.split_once('?') {
                Some((path, query)) => (Some(path.to_owned()), Some(Cow::Owned(query.to_owned()))),
                None => (Some(target.clone()), None),
            },
        };
        let host = effects.authority.as_ref().map(|authority| {
            let lower = authority.to_ascii_lowercase();
            let end = match lower.rfind(':') {
                Some(at) if !lower[at..].contains(']') => at,
                _ => lower.len(),
            };
            lower[..end].trim_end_matches('.').to_owned()
        });
        let headers = (!effects.request_headers.is_empty()).then(|| effects.headers(request.headers));
        Self { path, query, host, authority: effects.authority.clone(), headers }
    }

    fn view(&'a self, sent: &HttpRequest<'a>) -> HttpRequest<'a> {
        HttpRequest {
            method: sent.method,
            host: self.host.as_deref().unwrap_or(sent.host),
            authority: self.authority.as_deref().unwrap_or(sent.authority),
            path: self.path.as_deref().unwrap_or(sent.path),
            query: self.query.as_deref(),
            headers: self.headers.as_ref().unwrap_or(sent.headers),
        }
    }
}

fn find<'s>(
    services: &[&'s Arc<VirtualService>],
    stage: &Stage<'_>,
    request: &HttpRequest<'_>,
) -> Option<Hit<'s>> {
    services.iter().find_map(|&service| {
        service
            .http
            .iter()
            .find_map(|route| matching(route, stage, request).map(|matched| Hit { service, route, matched }))
    })
}

fn choose<'s>(hit: &Hit<'s>, draw: Draw<'_>) -> Result<(&'s WeightedDestination, usize), Refusal> {
    let HttpAction::Route(destinations) = &hit.route.action else {
        return Err(Refusal::new(Reason::Internal, "a route without destinations was about to be followed"));
    };
    destination::pick(destinations, draw).map(|to| (to, destinations.len())).ok_or_else(|| {
        blame(
            Refusal::new(
                Reason::NoDestination,
                format!(
                    "route {} of {} has no destination with a weight",
                    hit.route.name, hit.service.object
                ),
            ),
            hit,
        )
    })
}

/// Names the VirtualService where nothing closer to the cause is named.
fn blame(refusal: Refusal, hit: &Hit<'_>) -> Refusal {
    if refusal.object.is_some() { refusal } else { refusal.by(hit.service.object.clone()) }
}

fn unmatched(
    services: &[&Arc<VirtualService>],
    place: &str,
    port: u16,
    request: &HttpRequest<'_>,
) -> Refusal {
    let what = format!("{} {}{} on port {port}", request.method, request.host, request.path);
    match services.first() {
        Some(service) => Refusal::new(
            Reason::NoRoute,
            format!(
                "no http route of {} {place} matches {what}; add one, or a route without match",
                service.object
            ),
        )
        .by(service.object.clone()),
        None => Refusal::new(
            Reason::NoRoute,
            format!("no VirtualService {place} has routes for {what}; bind one to the Gateway"),
        ),
    }
}

fn forward(upstream: Arc<Upstream>, effects: Effects) -> Action {
    Action::Forward(Forward {
        upstream,
        path_and_query: effects.path_and_query,
        authority: effects.authority,
        request_headers: effects.request_headers,
        response_headers: effects.response_headers,
        timeout: effects.timeout,
    })
}
