//! From an upstream to addresses to try: lists, resolves, and refuses what must not be dialled.
//!
//! The forwarders call it once per request or connection. Opens no connection.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use super::{address::forbidden, tunnel::Session};
use crate::{
    dns::Resolver,
    reason::{Reason, Refusal},
    route::{AppProtocol, Endpoints, TlsMode, Upstream},
};

/// Endpoints tried for one request before it fails; Envoy's default is one try and two retries for connect failures.
const ATTEMPTS: usize = 3;

/// Refuses plain bytes for a port that is declared TLS (design D14). Routing refuses them first; this is the lock behind
/// it, because sending them anyway is the one mistake that cannot be taken back.
pub(super) fn require_tls(upstream: &Upstream) -> Result<(), Refusal> {
    match (upstream.protocol, &upstream.tls) {
        (AppProtocol::Https | AppProtocol::Tls, TlsMode::Plain) => Err(Refusal::new(
            Reason::TlsRequired,
            format!(
                "port {} of {} is declared as TLS, and no DestinationRule originates TLS for it: plain bytes are not sent there",
                upstream.port, upstream.host
            ),
        )),
        _ => Ok(()),
    }
}

/// Where to try.
pub(super) struct Addresses {
    /// In order; never none.
    pub(super) list: Vec<SocketAddr>,
    /// How long a name took to resolve, where there was one.
    pub(super) dns_us: Option<u64>,
}

/// The addresses to try for `upstream`.
pub(super) async fn addresses(session: &Session, upstream: &Upstream) -> Result<Addresses, Refusal> {
    let mut dns_us = None;
    let balancer = &session.gateway.balancer;
    let mut addresses = match &upstream.endpoints {
        Endpoints::Static(listed) => balancer.order(upstream, listed),
        Endpoints::OriginalDestination(address) => {
            check_original_destination(*address, session.caller.local.ip())?;
            vec![*address]
        }
        Endpoints::Dns(names) => {
            let began = Instant::now();
            let found = resolve(&session.gateway.parts.resolver, names).await?;
            dns_us = Some(began.elapsed().as_micros() as u64);
            // Where a family has no route, connecting fails at once and the other follows; most have IPv4.
            let (four, six): (Vec<_>, Vec<_>) = found.into_iter().partition(SocketAddr::is_ipv4);
            let mut addresses = balancer.order(upstream, &four);
            addresses.extend(balancer.order(upstream, &six));
            addresses
        }
    };
    if addresses.is_empty() {
        return Err(Refusal::new(Reason::NoEndpoint, format!("{} has no endpoint", upstream.cluster)));
    }
    addresses.truncate(ATTEMPTS);
    Ok(Addresses { list: addresses, dns_us })
}

/// Every usable address of `names`; fails only if no name has one.
async fn resolve(resolver: &Resolver, names: &[(Arc<str>, u16)]) -> Result<Vec<SocketAddr>, Refusal> {
    let (mut addresses, mut failure) = (Vec::new(), None);
    for (name, port) in names {
        let found = resolver.resolve(name).await;
        let found = found.map_err(|error| Refusal::new(Reason::UpstreamResolve, error.to_string()));
        match found.and_then(|found| usable(name, &found)) {
            Ok(found) => addresses.extend(found.into_iter().map(|ip| SocketAddr::new(ip, *port))),
            Err(refusal) => failure = Some(refusal),
        }
    }
    match failure {
        Some(refusal) if addresses.is_empty() => Err(refusal),
        _ => Ok(addresses),
    }
}

/// Refuses an original destination that means something else at the gateway than it does in the workload's pod.
pub(super) fn check_original_destination(address: SocketAddr, own: IpAddr) -> Result<(), Refusal> {
    let what = if address.ip().to_canonical() == own.to_canonical() {
        "the egress gateway itself"
    } else if address.port() == 0 {
        "no port"
    } else if let Some(what) = forbidden(address.ip()) {
        what
    } else {
        return Ok(());
    };
    Err(Refusal::new(
        Reason::NotRegistered,
        format!("{address} is {what}: workloads cannot reach it through the egress gateway"),
    ))
}

fn usable(name: &str, found: &[IpAddr]) -> Result<Vec<IpAddr>, Refusal> {
    let usable: Vec<_> = found.iter().copied().filter(|&ip| forbidden(ip).is_none()).collect();
    match found.first() {
        Some(&first) if usable.is_empty() => Err(Refusal::new(
            Reason::UpstreamResolve,
            format!(
                "{name} resolves to {first}, {}: the egress gateway does not connect there on a name server's word; list it as an endpoint if it is meant",
                forbidden(first).unwrap_or("not usable")
            ),
        )),
        _ => Ok(usable),
    }
}

#[cfg(test)]
mod tests {
    use super::{check_original_destination, usable};

    #[test]
    fn refuses_the_gateways_own_surroundings_as_original_destination() {
        let own = "10.0.0.9".parse().unwrap();
        for address in ["127.0.0.1:80", "169.254.169.254:80", "[::1]:80", "10.0.0.9:15008", "203.0.113.7:0"] {
            assert!(check_original_destination(address.parse().unwrap(), own).is_err(), "{address}");
        }
        assert!(check_original_destination("203.0.113.7:80".parse().unwrap(), own).is_ok());
    }

    #[test]
    fn drops_rebound_answers_and_refuses_when_nothing_is_left() {
        let parse =
            |ips: &[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<std::net::IpAddr>>();
        let left = usable("a.test", &parse(&["169.254.169.254", "203.0.113.7"])).unwrap();
        assert_eq!(left, parse(&["203.0.113.7"]));
        let refusal = usable("a.test", &parse(&["127.0.0.1"])).unwrap_err();
        assert!(refusal.detail.contains("a.test resolves to 127.0.0.1, a loopback address"), "{refusal}");
    }
}
