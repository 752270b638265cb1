//! From a destination to an [`Upstream`], and what happens to hosts nobody registers.

use std::{sync::Arc, time::Duration};

use super::{AppProtocol, Connection, Draw, Endpoints, LoadBalancer, RoutePath, TlsMode, Upstream};
use crate::{
    mesh::{
        Destination, Few, ObjectRef, OutboundTrafficPolicy, Service, Snapshot, WeightedDestination,
        transport::requires_tls,
        upstream::{Payload, Resolved},
    },
    reason::{Reason, Refusal},
};

/// The namespaces whose view of the registry counts: the gateway's and the client's.
pub(super) fn eyes<'a>(snapshot: &'a Snapshot, connection: &Connection<'a>) -> [&'a str; 2] {
    [&snapshot.settings.gateway.namespace, connection.source.namespace()]
}

/// The services that what the workload dialled belongs to, with their port.
pub(super) fn claims<'s>(
    snapshot: &'s Snapshot,
    connection: &Connection<'_>,
) -> Few<(&'s Arc<Service>, u16)> {
    let eyes = eyes(snapshot, connection);
    let dialled = connection.original_destination;
    match connection.dialled_host {
        Some(host) => {
            let service = snapshot.registry.by_host(host, dialled.port(), &eyes);
            service.map(|service| (service, dialled.port())).into_iter().collect()
        }
        None => snapshot.registry.by_address(dialled, &eyes),
    }
}

/// Picks one destination by weight.
pub(super) fn pick<'r>(
    destinations: &'r [WeightedDestination],
    draw: Draw<'_>,
) -> Option<&'r WeightedDestination> {
    if let [only] = destinations {
        return Some(only);
    }
    let total: u32 = destinations.iter().map(|to| to.weight).sum();
    if total == 0 {
        return None;
    }
    let mut left = draw(total);
    destinations.iter().find(|to| {
        let hit = left < to.weight;
        left = left.saturating_sub(to.weight);
        hit
    })
}

/// Resolves the destination that a route names.
pub(super) fn resolve(
    snapshot: &Snapshot,
    connection: &Connection<'_>,
    to: &Destination,
    payload: Payload,
    path: &mut RoutePath,
) -> Result<Arc<Upstream>, Refusal> {
    if snapshot.is_egress_gateway(&to.host) {
        return Err(Refusal::new(
            Reason::NoDestination,
            "a route of the gateway stage leads to the egress gateway itself; name the external host there",
        ));
    }
    let eyes = eyes(snapshot, connection);
    let services: Few<_> = snapshot.registry.visible(&to.host, &eyes).collect();
    if services.is_empty() {
        return Err(Refusal::new(
            Reason::NoDestination,
            format!(
                "the route leads to {}, which no ServiceEntry visible to {} registers; add one",
                to.host, eyes[1]
            ),
        ));
    }
    let port = if let Some(port) = to.port {
        port
    } else {
        let mut ports = services[0].ports.keys();
        match (ports.next(), ports.next()) {
            (Some(only), None) => *only,
            _ => {
                return Err(Refusal::new(
                    Reason::NoDestination,
                    format!(
                        "the route leads to {}, which has several ports; add destination.port.number",
                        to.host
                    ),
                ));
            }
        }
    };
    let Some(service) = services.iter().find(|service| service.ports.contains_key(&port)) else {
        let entry = &services[0].entries[0].object;
        path.service_entry = Some(entry.clone());
        return Err(Refusal::new(
            Reason::NoDestination,
            format!(
                "the route leads to {} port {port}, but {entry} does not list that port; add it",
                to.host
            ),
        )
        .by(entry.clone()));
    };
    upstream(service, &to.host, (port, to.subset.as_deref()), connection, payload, path)
}

/// The upstream of a registered host and port.
pub(super) fn upstream(
    service: &Service,
    host: &str,
    (port, subset): (u16, Option<&str>),
    connection: &Connection<'_>,
    payload: Payload,
    path: &mut RoutePath,
) -> Result<Arc<Upstream>, Refusal> {
    path.service_entry = Some(service.entry(port).object.clone());
    let bytes = (connection.address(), payload);
    let Resolved { upstream, rule } =
        service.resolve(host, port, subset, connection.source.namespace(), bytes)?;
    path.destination_rule = rule;
    Ok(upstream)
}

/// The ServiceEntry, if any, that declares a port with TLS for what the workload dialled.
fn claimed_for_tls(snapshot: &Snapshot, connection: &Connection<'_>) -> Option<ObjectRef> {
    claims(snapshot, connection).into_iter().find_map(|(service, port)| {
        let protocol = service.ports.get(&port)?.protocol;
        requires_tls(protocol).then(|| service.entry(port).object.clone())
    })
}

/// Where a host that is not registered is passed through to: the address dialled. A synthetic one leads nowhere; the host that
/// it stands for is resolved here, as the workload would have done, if it is registered (on other ports) and is the one meant.
fn passed_through(
    connection: &Connection<'_>,
    host: Option<&str>,
    registered: Option<&Service>,
) -> Result<Endpoints, Refusal> {
    let port = connection.original_destination.port();
    let Some(dialled) = connection.dialled_host else {
        return Ok(Endpoints::OriginalDestination(connection.original_destination));
    };
    let why = match host {
        Some(host) if host != dialled => {
            format!(
                "the workload dialled the synthetic address of {dialled} for {host}, which no ServiceEntry registers: it has no address to be passed through to; add a ServiceEntry"
            )
        }
        _ if registered.is_some() => return Ok(Endpoints::Dns(vec![(dialled.into(), port)])),
        _ => format!(
            "no ServiceEntry visible to the workload registers {dialled} any more, whose synthetic address it dialled: it has to resolve the name again"
        ),
    };
    Err(Refusal::new(Reason::NotRegistered, why))
}

/// A host that is not registered: passed through, or refused. `registered` is a service that has the host on other ports.
pub(super) fn unregistered(
    snapshot: &Snapshot,
    host: Option<&str>,
    (connection, payload): (&Connection<'_>, Payload),
    registered: Option<&Service>,
) -> Result<Arc<Upstream>, Refusal> {
    let dialled = connection.original_destination;
    if payload == Payload::Clear
        && let Some(entry) = claimed_for_tls(snapshot, connection)
    {
        let detail = format!(
            "{entry} declares HTTPS or TLS at {dialled}; plain bytes are not sent there under another name"
        );
        return Err(Refusal::new(Reason::TlsRequired, detail).by(entry));
    }
    if let Some((pattern, entry)) =
        host.and_then(|host| snapshot.refused_services.candidates(host).flatten().next())
    {
        let detail =
            format!("{entry} for {pattern} is not valid, so where its hosts are is not known; correct it");
        return Err(Refusal::new(Reason::NoDestination, detail).by(entry.clone()));
    }
    match snapshot.settings.outbound_traffic_policy {
        OutboundTrafficPolicy::AllowAny => Ok(Arc::new(Upstream {
            cluster: "PassthroughCluster".into(),
            host: host.map_or_else(|| dialled.ip().to_string().into(), Into::into),
            port: dialled.port(),
            protocol: AppProtocol::Detect,
            endpoints: passed_through(connection, host, registered)?,
            tls: TlsMode::Plain,
            load_balancer: LoadBalancer::default(),
            connect_timeout: Duration::from_secs(10),
        })),
        OutboundTrafficPolicy::RegistryOnly => {
            let name = host.map_or_else(|| dialled.ip().to_string(), str::to_owned);
            let port = dialled.port();
            Err(match registered {
                Some(service) => {
                    let entry = &service.entries[0].object;
                    Refusal::new(
                        Reason::NotRegistered,
                        format!("{entry} registers {name}, but not on port {port}; add the port to it"),
                    )
                    .by(entry.clone())
                }
                None => Refusal::new(
                    Reason::NotRegistered,
                    format!(
                        "no ServiceEntry registers {name} port {port}, and outboundTrafficPolicy is REGISTRY_ONLY; add a ServiceEntry"
                    ),
                ),
            })
        }
    }
}
