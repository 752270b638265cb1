//! The configurations that the engines are asked about: a handful of objects, and thousands. Made without YAML, so that they are
//! there in no time under valgrind, too.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use egret::{
    mesh::{
        AuthorizationPolicy, Destination, DestinationRule, Endpoint, EndpointAddress, ExportTo, Gateway,
        GatewayName, HostPattern, HostRule, HttpAction, HttpMatch, HttpRoute, Kind, L4Match, L4Route,
        ObjectRef, Objects, Operation, PolicyAction, Resolution, Rule, Selector, Server, ServerHost,
        ServerKind, ServiceEntry, ServicePort, Snapshot, Source, TextMatch, TlsSetting, TrafficPolicy,
        VirtualService, WeightedDestination,
    },
    route::AppProtocol,
};
use ipnet::{IpNet, Ipv4Net};

/// Who asks.
pub(crate) const WORKLOAD: &str = "spiffe://cluster.local/ns/default/sa/sleep";
/// For what: it has routes of both stages, and a DestinationRule with mutual TLS.
pub(crate) const HOST: &str = "test.com";
/// A host that is only registered.
pub(crate) const PLAIN_HOST: &str = "plain.com";
/// An address in a network that a service for TCP lists.
pub(crate) const DATABASE: &str = "203.0.113.5:5432";

/// How much there is of it besides what is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// ALLOW policies; the one that matches is in the middle. A fifth as many of DENY.
    policies: usize,
    /// ServiceEntries, every tenth of them with a network of addresses.
    entries: usize,
    /// Of these, so many have a VirtualService, a Gateway and a DestinationRule of their own.
    routed: usize,
}

pub(crate) const SMALL: Size = Size { policies: 5, entries: 5, routed: 2 };
pub(crate) const LARGE: Size = Size { policies: 1_000, entries: 10_000, routed: 1_000 };

impl Size {
    pub(crate) fn snapshot(self) -> Snapshot {
        let mut objects = Objects::default();
        for number in 0..self.policies {
            let (principal, host) = if number == self.policies / 2 {
                (WORKLOAD.trim_start_matches("spiffe://").to_owned(), HOST.to_owned())
            } else {
                (format!("cluster.local/ns/team-{number}/sa/app"), name(number))
            };
            let from = Source { principals: vec![TextMatch::policy(&principal)], ..Source::default() };
            objects.policies.push(policy(PolicyAction::Allow, number, from, &host));
        }
        for number in 0..self.policies / 5 {
            let namespaces = vec![TextMatch::policy(&format!("banned-{number}"))];
            let from = Source { namespaces, ..Source::default() };
            objects.policies.push(policy(PolicyAction::Deny, number, from, "*.example.com"));
        }
        for number in 0..self.entries {
            let mut entry = entry(&name(number), &HTTP);
            if number % 10 == 0 {
                entry.addresses.push(network(Ipv4Addr::new(10, 0, 0, 0), number));
            }
            objects.service_entries.push(Arc::new(entry));
        }
        for host in (0..self.routed).map(name).chain([HOST.to_owned()]) {
            let gateway = GatewayName::Named { namespace: "istio-system".into(), name: host.as_str().into() };
            objects.virtual_services.push(Arc::new(virtual_service(&host, &gateway)));
            objects.gateways.push(Arc::new(gateway_of(&host)));
            objects.destination_rules.push(Arc::new(destination_rule(&host)));
        }
        objects.service_entries.push(Arc::new(entry(HOST, &HTTP)));
        objects.service_entries.push(Arc::new(entry(PLAIN_HOST, &HTTP)));
        let mut database = entry("database.com", &[(5432, "tcp", AppProtocol::Tcp)]);
        database.addresses.push(network(Ipv4Addr::new(203, 0, 113, 0), 0));
        objects.service_entries.push(Arc::new(database));
        objects.compile(1)
    }
}

const HTTP: [(u16, &str, AppProtocol); 2] =
    [(80, "http", AppProtocol::Http), (443, "https", AppProtocol::Https)];

fn name(number: usize) -> String {
    format!("service-{number}.example.com")
}

/// The network of so many addresses after the first one that has this number.
fn network(first: Ipv4Addr, number: usize) -> IpNet {
    let address = Ipv4Addr::from_bits(first.to_bits() + (u32::try_from(number).unwrap_or_default() << 8));
    Ipv4Net::new_assert(address, 24).into()
}

fn exact(host: &str) -> HostPattern {
    HostPattern::Exact(host.into())
}

fn policy(action: PolicyAction, number: usize, from: Source, host: &str) -> Arc<AuthorizationPolicy> {
    let host = HostRule { host: TextMatch::policy(host), port: None };
    let methods = ["GET", "PUT"].map(TextMatch::policy).to_vec();
    let to = Operation { hosts: vec![host], methods, ..Operation::default() };
    let name = format!("{action:?}-{number:04}");
    Arc::new(AuthorizationPolicy {
        object: ObjectRef::new(Kind::AuthorizationPolicy, "istio-system", name),
        selector: Selector::default(),
        action,
        rules: vec![Rule { from: vec![from], to: vec![to], when: Vec::new() }],
    })
}

fn entry(host: &str, ports: &[(u16, &str, AppProtocol)]) -> ServiceEntry {
    let port = |&(number, name, protocol): &(u16, &str, AppProtocol)| ServicePort {
        number,
        name: name.into(),
        protocol,
        target: None,
    };
    let address = EndpointAddress::Ip(Ipv4Addr::new(198, 18, 0, 1).into());
    ServiceEntry {
        object: ObjectRef::new(Kind::ServiceEntry, "default", host),
        created: "".into(),
        hosts: vec![exact(host)],
        addresses: Vec::new(),
        ports: ports.iter().map(port).collect(),
        resolution: Resolution::Static,
        endpoints: vec![Endpoint { address, ports: BTreeMap::new(), labels: BTreeMap::new() }],
        subject_alt_names: Vec::new(),
        export_to: ExportTo::All,
    }
}

fn gateway_of(host: &str) -> Gateway {
    let server =
        |port, kind| Server { port, kind, hosts: vec![ServerHost { namespace: None, host: exact(host) }] };
    Gateway {
        object: ObjectRef::new(Kind::Gateway, "istio-system", host),
        selector: Selector::default(),
        servers: vec![server(80, ServerKind::Http), server(443, ServerKind::Passthrough)],
    }
}

/// As the demo has it: everything to the gateway, and on from there.
fn virtual_service(host: &str, gateway: &GatewayName) -> VirtualService {
    let to = |host: &str, port| WeightedDestination {
        destination: Destination { host: host.into(), port: Some(port), subset: None },
        weight: 100,
        request_headers: None,
        response_headers: None,
    };
    let egress = "istio-egressgateway.istio-system.svc.cluster.local";
    let http = |name: &str, stage: &GatewayName, destination| HttpRoute {
        name: name.into(),
        matches: vec![HttpMatch { gateways: vec![stage.clone()], port: Some(80), ..HttpMatch::default() }],
        action: HttpAction::Route(vec![destination]),
        rewrite: None,
        request_headers: None,
        response_headers: None,
        timeout: None,
    };
    let tls = |name: &str, stage: &GatewayName, destination| L4Route {
        name: name.into(),
        matches: vec![L4Match {
            sni_hosts: vec![exact(host)],
            port: Some(443),
            gateways: vec![stage.clone()],
            ..L4Match::default()
        }],
        destinations: vec![destination],
    };
    VirtualService {
        object: ObjectRef::new(Kind::VirtualService, "default", host),
        created: "".into(),
        hosts: vec![exact(host)],
        gateways: vec![GatewayName::Mesh, gateway.clone()],
        http: vec![http("0", &GatewayName::Mesh, to(egress, 80)), http("1", gateway, to(host, 443))],
        tls: vec![tls("0", &GatewayName::Mesh, to(egress, 443)), tls("1", gateway, to(host, 443))],
        tcp: Vec::new(),
        export_to: ExportTo::All,
    }
}

fn destination_rule(host: &str) -> DestinationRule {
    let tls = TlsSetting::Originate {
        mutual: true,
        credential_name: Some("client-credential".into()),
        sni: Some(host.into()),
        subject_alt_names: Vec::new(),
        insecure_skip_verify: false,
    };
    DestinationRule {
        object: ObjectRef::new(Kind::DestinationRule, "default", host),
        host: exact(host),
        policy: TrafficPolicy { tls: Some(tls), ..TrafficPolicy::default() },
        subsets: Vec::new(),
        export_to: ExportTo::All,
        workload_selector: None,
    }
}
