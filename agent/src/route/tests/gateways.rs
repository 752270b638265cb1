//! Servers found by port and host are those that looking at every Gateway would find, in the same order.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    mesh::{
        ExportTo, Gateway, GatewayName, HostMap, HostPattern, Kind, L4Route, ObjectRef, Objects, Selector,
        Server, ServerHost, ServerKind, VirtualService,
    },
    route::stage,
};

const HOSTS: [&str; 7] = ["a.com", "b.a.com", "c.com", "*.com", "*.a.com", "*", "*.b.a.com"];
const NAMESPACES: [&str; 2] = ["istio-system", "default"];
const KINDS: [ServerKind; 3] = [ServerKind::Http, ServerKind::Passthrough, ServerKind::Tcp];

fn hosts() -> impl Strategy<Value = HostPattern> {
    select(&HOSTS[..]).prop_map(|host| HostPattern::parse(host).unwrap())
}

fn servers() -> impl Strategy<Value = Server> {
    let namespace = prop::option::weighted(0.3, select(&NAMESPACES[..]));
    let host = (namespace, hosts())
        .prop_map(|(namespace, host)| ServerHost { namespace: namespace.map(Arc::from), host });
    (select(vec![80, 443]), select(&KINDS[..]), vec(host, 0..3)).prop_map(|(port, kind, hosts)| Server {
        port,
        kind,
        hosts,
    })
}

fn gateways() -> impl Strategy<Value = Vec<Arc<Gateway>>> {
    vec(vec(servers(), 0..3), 0..4).prop_map(|gateways| {
        let gateway = |(number, servers)| Gateway {
            object: ObjectRef::new(Kind::Gateway, "default", format!("g{number}")),
            selector: Selector::default(),
            servers,
        };
        gateways.into_iter().enumerate().map(gateway).map(Arc::new).collect()
    })
}

fn services() -> impl Strategy<Value = Vec<Arc<VirtualService>>> {
    let export_to = select(vec![ExportTo::All, ExportTo::All, ExportTo::Namespaces(vec!["default".into()])]);
    let service = (select(&NAMESPACES[..]), vec(hosts(), 1..3), vec(0..4_usize, 1..3), export_to);
    vec(service, 0..6).prop_map(|services| {
        let service = |(number, (namespace, hosts, gateways, export_to)): (usize, (_, _, Vec<usize>, _))| {
            let bound = |number| GatewayName::Named {
                namespace: "default".into(),
                name: format!("g{number}").into(),
            };
            let route = L4Route { name: "0".into(), matches: Vec::new(), destinations: Vec::new() };
            VirtualService {
                object: ObjectRef::new(Kind::VirtualService, namespace, format!("v{number}")),
                created: "".into(),
                hosts,
                gateways: gateways.into_iter().map(bound).collect(),
                http: Vec::new(),
                tls: Vec::new(),
                tcp: vec![route],
                export_to,
            }
        };
        services.into_iter().enumerate().map(service).map(Arc::new).collect()
    })
}

/// Gateway, what its server takes in, and the VirtualServices bound to it.
type Found = Vec<(ObjectRef, ServerKind, Vec<ObjectRef>)>;

/// Looks at every server of every Gateway.
fn one_by_one(objects: &Objects, port: u16, host: Option<&str>, kinds: &[ServerKind]) -> Found {
    let own = &*objects.settings.gateway.namespace;
    let mut sorted = objects.virtual_services.clone();
    sorted.sort_by(|a, b| a.object.cmp(&b.object));
    let mut routes: HashMap<&GatewayName, HostMap<Vec<Arc<VirtualService>>>> = HashMap::new();
    for service in &sorted {
        for (gateway, pattern) in
            service.gateways.iter().flat_map(|g| service.hosts.iter().map(move |h| (g, h)))
        {
            routes.entry(gateway).or_default().entry(pattern).push(Arc::clone(service));
        }
    }
    let mut found = Vec::new();
    for gateway in &objects.gateways {
        let ObjectRef { namespace, name, .. } = gateway.object.clone();
        let name = GatewayName::Named { namespace, name };
        for server in gateway.servers.iter().filter(|s| s.port == port && kinds.contains(&s.kind)) {
            let means = |served: &&ServerHost| host.is_none_or(|host| served.host.matches(host));
            let named: Vec<_> = server.hosts.iter().filter(means).collect();
            if named.is_empty() {
                continue;
            }
            let bound = |service: &&Arc<VirtualService>| {
                service.export_to.visible(&[own])
                    && named.iter().any(|served| {
                        served.namespace.as_ref().is_none_or(|ns| *ns == service.object.namespace)
                            && service.hosts.iter().any(|pattern| pattern.overlaps(&served.host))
                    })
            };
            let mut services: Vec<&Arc<VirtualService>> = match (routes.get(&name), host) {
                (None, _) => Vec::new(),
                (Some(table), Some(host)) => {
                    let lists =
                        table.candidates(host).map(|list| list.iter().filter(bound).collect::<Vec<_>>());
                    lists.into_iter().find(|list| !list.is_empty()).unwrap_or_default()
                }
                (Some(table), None) => table.values().flatten().filter(bound).collect(),
            };
            if host.is_none() {
                services.sort_by(|a, b| a.object.cmp(&b.object));
                services.dedup_by(|a, b| a.object == b.object);
            }
            let patterns = services.iter().flat_map(|service| &service.hosts);
            let specificity = patterns
                .filter(|pattern| host.is_none_or(|host| pattern.matches(host)))
                .map(HostPattern::specificity)
                .max();
            let services = services.into_iter().map(|service| service.object.clone()).collect();
            found.push((specificity.unwrap_or_default(), (gateway.object.clone(), server.kind, services)));
        }
    }
    found.sort_by_key(|(specificity, _)| Reverse(*specificity));
    found.into_iter().map(|(_, found)| found).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn finds_as_one_by_one(
        gateways in gateways(),
        virtual_services in services(),
        port in select(vec![80, 443]),
        host in prop::option::weighted(0.8, select(vec!["a.com", "b.a.com", "x.b.a.com", "c.com", "d.org"])),
        kinds in select(vec![&KINDS[..1], &KINDS[1..], &KINDS[2..]]),
    ) {
        let objects = Objects { gateways, virtual_services, ..Objects::default() };
        let snapshot = objects.clone().compile(1);
        let found = stage::gateways(&snapshot, port, host, kinds).unwrap_or_default();
        let found: Found = found
            .iter()
            .map(|bound| {
                let services = bound.services.iter().map(|service| service.object.clone()).collect();
                (bound.gateway(), bound.server.kind(), services)
            })
            .collect();
        prop_assert_eq!(found, one_by_one(&objects, port, host, kinds));
    }
}
