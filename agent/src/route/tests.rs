//! What the tutorial and the golden samples do not show: visibility, DestinationRule precedence and TLS, TLS and TCP
//! connections, weights, effects of two stages.

mod by_name;
mod gateways;

use std::net::SocketAddr;

use proptest::prelude::*;

use super::{
    Action, AppProtocol, Connection, Endpoints, Forward, RouteDecision, TlsMode, declared_protocol,
    destination::pick, tcp, tls,
};
use crate::{
    mesh::{Destination, Snapshot, WeightedDestination},
    reason::Reason,
    source::tests::{Sent, forwarded, reason, refused, snapshot},
};

const HTTPS: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: test, namespace: default}
spec:
  hosts: [test.com]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: https, protocol: HTTPS}]
  endpoints: [{address: 192.0.2.1, labels: {v: one}}, {address: 192.0.2.2, ports: {http: 8080}}]
";

fn rule(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn to_443<'a>() -> Sent<'a> {
    Sent { to: "192.0.2.1:443", ..Sent::default() }
}

/// The SNI of the origination, `plain`, or the reason of the refusal.
fn transport(yaml: &str) -> String {
    match to_443().route(&snapshot(yaml)).outcome {
        Ok(Action::Forward(Forward { upstream, .. })) => match &upstream.tls {
            TlsMode::Plain => "plain".to_owned(),
            TlsMode::Originate(tls) => tls.sni.as_deref().unwrap_or("host").to_owned(),
        },
        Ok(other) => panic!("{other:?}"),
        Err(refusal) => refusal.reason.to_string(),
    }
}

#[test]
fn tls_is_never_lost_on_the_way_through_rules() {
    let simple = |sni: &str| format!("tls: {{mode: SIMPLE, sni: {sni}}}");
    let top = |host: &str, sni: &str| format!("{{host: '{host}', trafficPolicy: {{{}}}}}", simple(sni));
    for (rules, expected) in [
        (String::new(), "tls_required"),
        (rule("a", "default", &top("test.com", "a")), "a"),
        // Holes of Istio, each of which would send clear bytes there.
        (rule("a", "default", &top("TEST.com", "a")), "a"),
        (
            rule(
                "a",
                "default",
                "{host: test.com, trafficPolicy: {tls: {mode: SIMPLE, sni: a}, portLevelSettings: [{port: {number: 443}, loadBalancer: {simple: RANDOM}}]}}",
            ),
            "a",
        ),
        (rule("a", "default", "{host: test.com}") + &rule("b", "default", &top("test.com", "b")), "b"),
        (rule("a", "default", "{host: test.com}") + &rule("b", "default", &top("*.com", "b")), "b"),
        (rule("a", "foo", &top("test.com", "a")), "tls_required"),
        (rule("a", "default", "{host: test.com, trafficPolicy: {tls: {mode: DISABLE}}}"), "tls_required"),
        (
            rule("a", "default", "{host: test.com, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}"),
            "tls_required",
        ),
        // Precedence.
        (
            rule("a", "istio-system", &top("test.com", "a")) + &rule("b", "default", &top("test.com", "b")),
            "a",
        ),
        (rule("a", "default", &top("*.com", "a")) + &rule("b", "default", &top("test.com", "b")), "b"),
        (
            rule(
                "a",
                "default",
                "{host: test.com, trafficPolicy: {tls: {mode: SIMPLE, sni: a}, portLevelSettings: [{port: {number: 443}, tls: {mode: SIMPLE, sni: b}}]}}",
            ),
            "b",
        ),
        // Visible to the client's namespace, or not.
        (
            rule(
                "a",
                "default",
                "{host: test.com, exportTo: ['.'], trafficPolicy: {tls: {mode: SIMPLE, sni: a}}}",
            ),
            "a",
        ),
        (
            rule(
                "a",
                "default",
                "{host: test.com, exportTo: [foo], trafficPolicy: {tls: {mode: SIMPLE, sni: a}}}",
            ),
            "tls_required",
        ),
        (
            rule(
                "a",
                "default",
                "{host: test.com, workloadSelector: {matchLabels: {app: x}}, trafficPolicy: {tls: {mode: SIMPLE}}}",
            ),
            "tls_required",
        ),
    ] {
        assert_eq!(transport(&(HTTPS.to_owned() + &rules)), expected, "{rules}");
    }
}

#[test]
fn the_clients_own_namespace_may_shape_its_own_traffic() {
    let yaml = HTTPS.to_owned() + &rule("a", "foo", "{host: test.com, trafficPolicy: {tls: {mode: SIMPLE}}}");
    let snapshot = snapshot(&yaml);
    let from = "spiffe://cluster.local/ns/foo/sa/x";
    forwarded(Sent { from, ..to_443() }.route(&snapshot));
    assert_eq!(reason(to_443().route(&snapshot)), Reason::TlsRequired);
}

#[test]
fn endpoints_subsets_and_names() {
    let with = |route: &str| {
        let yaml = format!(
            "{HTTPS}{}---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v, namespace: default}}\nspec: {{hosts: [test.com], http: [{{route: [{{destination: {route}}}]}}]}}\n",
            rule(
                "a",
                "default",
                "{host: test.com, subsets: [{name: one, labels: {v: one}}, {name: none, labels: {v: none}}]}"
            ),
        );
        Sent::default().route(&snapshot(&yaml))
    };
    let addresses = |list: &[&str]| Endpoints::Static(list.iter().map(|a| a.parse().unwrap()).collect());
    let upstream = forwarded(with("{host: test.com, port: {number: 80}}")).upstream;
    assert_eq!(upstream.endpoints, addresses(&["192.0.2.1:80", "192.0.2.2:8080"]));
    let upstream = forwarded(with("{host: test.com, port: {number: 80}, subset: one}")).upstream;
    assert_eq!(&*upstream.cluster, "outbound|80|one|test.com");
    assert_eq!(upstream.endpoints, addresses(&["192.0.2.1:80"]));
    for (to, expected) in [
        ("{host: test.com, port: {number: 80}, subset: two}", Reason::NoDestination),
        ("{host: test.com, port: {number: 80}, subset: none}", Reason::NoEndpoint),
        ("{host: test.com, port: {number: 81}}", Reason::NoDestination),
        ("{host: test.com}", Reason::NoDestination),
        ("{host: other.com, port: {number: 80}}", Reason::NoDestination),
    ] {
        let refusal = refused(with(to));
        assert_eq!(refusal.reason, expected, "{to}: {refusal}");
    }
}

#[test]
fn services_are_seen_where_they_are_exported_to() {
    let dns = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild, namespace: foo}
spec: {hosts: ['*.wild.com'], resolution: DNS, exportTo: ['.'], ports: [{number: 80, name: http, protocol: HTTP}]}
---
apiVersion: egret.dev/v1alpha1
kind: MeshConfig
metadata: {name: m}
spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
";
    let snapshot = snapshot(dns);
    let sent = |from, authority| Sent { from, authority, ..Sent::default() };
    let own = "spiffe://cluster.local/ns/foo/sa/x";
    let upstream = forwarded(sent(own, "a.b.wild.com").route(&snapshot)).upstream;
    assert_eq!(upstream.endpoints, Endpoints::Dns(vec![("a.b.wild.com".into(), 80)]));
    assert_eq!(reason(sent(own, "wild.com").route(&snapshot)), Reason::NotRegistered);
    let other = "spiffe://cluster.local/ns/default/sa/sleep";
    assert_eq!(reason(sent(other, "a.wild.com").route(&snapshot)), Reason::NotRegistered);
}

const L4: &str = "
apiVersion: egret.dev/v1alpha1
kind: MeshConfig
metadata: {name: m}
spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: tls, namespace: default}
spec: {hosts: [tls.com], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}, {number: 80, name: http, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: default}
spec: {hosts: [db.com], addresses: [203.0.113.0/28], resolution: NONE, ports: [{number: 5432, name: pg, protocol: TCP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web, namespace: default}
spec: {hosts: [web.com], addresses: [203.0.113.100], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
";

/// Opaque bytes where `sni` is `-`, else TLS, without a server name where it is empty.
fn l4(snapshot: &Snapshot, to: &str, sni: &str) -> RouteDecision {
    let source = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
    let connection = Connection {
        source: &source,
        original_destination: to.parse::<SocketAddr>().unwrap(),
        dialled_host: None,
    };
    match sni {
        "-" => tcp(snapshot, &connection),
        "" => tls(snapshot, &connection, None),
        name => tls(snapshot, &connection, Some(name)),
    }
}

#[test]
fn connections_by_server_name_and_by_address() {
    let snapshot = snapshot(L4);
    let upstream = forwarded(l4(&snapshot, "198.51.100.1:443", "TLS.com")).upstream;
    assert_eq!((&*upstream.cluster, &upstream.tls), ("outbound|443||tls.com", &TlsMode::Plain));
    let upstream = forwarded(l4(&snapshot, "203.0.113.5:5432", "-")).upstream;
    assert_eq!(upstream.endpoints, Endpoints::OriginalDestination("203.0.113.5:5432".parse().unwrap()));
    for (to, sni, expected) in [
        ("198.51.100.1:443", "other.com", Reason::NotRegistered),
        ("198.51.100.1:8443", "tls.com", Reason::NotRegistered),
        ("198.51.100.1:443", "", Reason::NotRegistered),
        ("203.0.113.5:5433", "-", Reason::NotRegistered),
        ("203.0.113.16:5432", "-", Reason::NotRegistered),
        // Opaque bytes are no way around what is decided about HTTP.
        ("203.0.113.100:80", "-", Reason::NoRoute),
        ("198.51.100.1:80", "tls.com", Reason::NoRoute),
    ] {
        let refusal = refused(l4(&snapshot, to, sni));
        assert_eq!(refusal.reason, expected, "{to} {sni:?}: {refusal}");
    }
    let source = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
    for (to, expected) in [
        ("203.0.113.5:5432", AppProtocol::Tcp),
        ("[::ffff:203.0.113.5]:5432", AppProtocol::Tcp),
        ("203.0.113.100:80", AppProtocol::Http),
        ("198.51.100.1:443", AppProtocol::Detect),
    ] {
        let connection =
            Connection { source: &source, original_destination: to.parse().unwrap(), dialled_host: None };
        assert_eq!(declared_protocol(&snapshot, &connection), expected, "{to}");
    }
}

#[test]
fn without_resolution_the_dialled_address_counts_only_where_it_is_listed() {
    let yaml = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: none, namespace: default}
spec: {hosts: ['*.test.com'], addresses: [203.0.113.0/28], resolution: NONE, ports: [{number: 80, name: h, protocol: HTTP}, {number: 5432, name: t, protocol: TCP}]}
";
    let snapshot = snapshot(yaml);
    let endpoints = |to| {
        forwarded(Sent { authority: "a.test.com", to, ..Sent::default() }.route(&snapshot))
            .upstream
            .endpoints
            .clone()
    };
    assert_eq!(
        endpoints("203.0.113.3:80"),
        Endpoints::OriginalDestination("203.0.113.3:80".parse().unwrap())
    );
    assert_eq!(endpoints("192.0.2.66:80"), Endpoints::Dns(vec![("a.test.com".into(), 80)]));
    let upstream = forwarded(l4(&snapshot, "203.0.113.3:5432", "-")).upstream;
    assert_eq!(upstream.endpoints, Endpoints::OriginalDestination("203.0.113.3:5432".parse().unwrap()));
}

#[test]
fn tls_passes_through_both_stages() {
    let yaml = L4.to_owned()
        + "---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw, namespace: default}
spec:
  selector: {istio: egressgateway}
  servers: [{port: {number: 443, name: tls, protocol: TLS}, hosts: [tls.com], tls: {mode: PASSTHROUGH}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v, namespace: default}
spec:
  hosts: [tls.com]
  gateways: [mesh, gw]
  tls:
  - match: [{gateways: [mesh], port: 443, sniHosts: [tls.com]}]
    route: [{destination: {host: istio-egressgateway.istio-system, port: {number: 443}, subset: tls}}]
  - match: [{gateways: [gw], port: 443, sniHosts: [tls.com]}]
    route: [{destination: {host: tls.com, port: {number: 443}}}]
";
    let decision = l4(&snapshot(&yaml), "198.51.100.1:443", "tls.com");
    assert_eq!(decision.path.gateway.clone().unwrap().to_string(), "Gateway default/gw");
    assert_eq!(&*decision.path.gateway_route.clone().unwrap().1, "1");
    assert_eq!(&*forwarded(decision).upstream.cluster, "outbound|443||tls.com");
    let decision = l4(
        &snapshot(&yaml.replace("gateways: [gw], port: 443", "gateways: [gw], port: 444")),
        "198.51.100.1:443",
        "tls.com",
    );
    assert_eq!(reason(decision), Reason::NoRoute);
}

#[test]
fn the_gateway_stage_sees_what_the_mesh_stage_made() {
    let yaml = HTTPS.to_owned()
        + "---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gw, namespace: default}
spec: {selector: {istio: egressgateway}, servers: [{port: {number: 80, name: h, protocol: HTTP}, hosts: ['*']}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: mesh, namespace: default}
spec:
  hosts: [short.local]
  http:
  - rewrite: {uri: /new, authority: test.com}
    headers: {request: {set: {x-stage: mesh}}}
    timeout: 5s
    match: [{uri: {prefix: /old}}]
    route: [{destination: {host: istio-egressgateway.istio-system.svc.cluster.local, port: {number: 80}}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: gw, namespace: default}
spec:
  hosts: [test.com]
  gateways: [gw]
  http:
  - match: [{uri: {exact: /new/x}, headers: {x-stage: {exact: mesh}}, queryParams: {a: {exact: '1'}}}]
    timeout: 3s
    route: [{destination: {host: test.com, port: {number: 80}}}]
";
    let sent = Sent { authority: "short.local", path: "/old/x", query: Some("a=1"), ..Sent::default() };
    let forward = forwarded(sent.route(&snapshot(&yaml)));
    assert_eq!(forward.path_and_query.as_deref(), Some("/new/x?a=1"));
    assert_eq!(forward.authority.as_deref(), Some("test.com"));
    assert_eq!(forward.timeout, Some(std::time::Duration::from_secs(3)));
    assert_eq!(forward.request_headers.len(), 1);
}

fn weighted(weights: &[u32]) -> Vec<WeightedDestination> {
    weights
        .iter()
        .map(|&weight| WeightedDestination {
            destination: Destination { host: weight.to_string().into(), port: None, subset: None },
            weight,
            request_headers: None,
            response_headers: None,
        })
        .collect()
}

proptest! {
    #[test]
    fn every_draw_hits_a_destination_with_a_weight(weights in prop::collection::vec(0_u32..9, 2..6), seed in any::<u32>()) {
        let destinations = weighted(&weights);
        let picked = pick(&destinations, &mut |total| seed % total);
        prop_assert_eq!(picked.is_some(), weights.iter().any(|w| *w > 0));
        prop_assert!(picked.is_none_or(|to| to.weight > 0));
    }

    #[test]
    fn draws_spread_exactly_by_weight(weights in prop::collection::vec(1_u32..9, 2..5)) {
        let destinations = weighted(&weights);
        let total: u32 = weights.iter().sum();
        for (index, to) in destinations.iter().enumerate() {
            let hits = (0..total)
                .filter(|n| std::ptr::eq(pick(&destinations, &mut |_| *n).unwrap(), &raw const *to))
                .count();
            prop_assert_eq!(hits, weights[index] as usize);
        }
    }
}
