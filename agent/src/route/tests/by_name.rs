//! Connections to a synthetic address: the host decides, the address leads nowhere.

use super::*;

const DATABASES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: one, namespace: default}
spec: {hosts: [one.test], resolution: STATIC, endpoints: [{address: 203.0.113.1}], ports: [{number: 5432, name: pg, protocol: TCP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: two, namespace: default}
spec: {hosts: [two.test], resolution: STATIC, endpoints: [{address: 203.0.113.2, ports: {pg: 15432}}], ports: [{number: 5432, name: pg, protocol: TCP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: none, namespace: default}
spec: {hosts: [none.test], resolution: NONE, ports: [{number: 5432, name: pg, protocol: TCP}, {number: 80, name: http, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: hidden, namespace: elsewhere}
spec: {hosts: [hidden.test], resolution: DNS, exportTo: ['.'], ports: [{number: 5432, name: pg, protocol: TCP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wide, namespace: default}
spec: {hosts: [wide.test], addresses: [240.240.0.0/16], resolution: NONE, ports: [{number: 9, name: x, protocol: TCP}]}
";
const REGISTRY_ONLY: &str = "---
apiVersion: egret.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
";

/// Opaque bytes where `sni` is `-`, else TLS, without a server name where it is empty.
fn by_name(snapshot: &Snapshot, host: &str, port: u16, sni: &str) -> RouteDecision {
    let source = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
    let original_destination = SocketAddr::from(([240, 240, 1, 2], port));
    let connection = Connection { source: &source, original_destination, dialled_host: Some(host) };
    match sni {
        "-" => tcp(snapshot, &connection),
        "" => tls(snapshot, &connection, None),
        name => tls(snapshot, &connection, Some(name)),
    }
}

#[test]
fn hosts_on_one_port_are_told_apart() {
    let snapshot = snapshot(DATABASES);
    for sni in ["-", ""] {
        for (host, cluster, endpoints) in [
            (
                "one.test",
                "outbound|5432||one.test",
                Endpoints::Static(vec!["203.0.113.1:5432".parse().unwrap()]),
            ),
            (
                "two.test",
                "outbound|5432||two.test",
                Endpoints::Static(vec!["203.0.113.2:15432".parse().unwrap()]),
            ),
            ("none.test", "outbound|5432||none.test", Endpoints::Dns(vec![("none.test".into(), 5432)])),
        ] {
            let upstream = forwarded(by_name(&snapshot, host, 5432, sni)).upstream;
            assert_eq!((&*upstream.cluster, &upstream.endpoints), (cluster, &endpoints));
        }
    }
    // A range that lists the synthetic address makes it no destination.
    let upstream = forwarded(by_name(&snapshot, "wide.test", 9, "-")).upstream;
    assert_eq!(upstream.endpoints, Endpoints::Dns(vec![("wide.test".into(), 9)]));
}

/// The classic two stages for a database, both through port 5432 of the egress gateway.
fn two_stages(host: &str) -> String {
    let name = host.replace('.', "-");
    format!(
        "---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: default}}
spec: {{selector: {{istio: egressgateway}}, servers: [{{port: {{number: 5432, name: tcp, protocol: TCP}}, hosts: ['*']}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: [{host}]
  gateways: [mesh, {name}]
  tcp:
  - match: [{{gateways: [mesh], port: 5432}}]
    route: [{{destination: {{host: istio-egressgateway.istio-system.svc.cluster.local, port: {{number: 5432}}}}}}]
  - match: [{{gateways: [{name}], port: 5432}}]
    route: [{{destination: {{host: {host}, port: {{number: 5432}}}}}}]
"
    )
}

#[test]
fn hosts_are_told_apart_behind_one_port_of_the_egress_gateway_too() {
    let snapshot = snapshot(&[DATABASES, &two_stages("one.test"), &two_stages("two.test")].concat());
    for host in ["one.test", "two.test"] {
        let decision = by_name(&snapshot, host, 5432, "-");
        let route = decision.path.gateway_route.as_ref().map(|(object, _)| object.name.to_string());
        assert_eq!(route, Some(host.replace('.', "-")));
        assert_eq!(*forwarded(decision).upstream.cluster, format!("outbound|5432||{host}"));
    }
}

#[test]
fn the_name_declares_the_protocol() {
    let snapshot = snapshot(DATABASES);
    let source = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
    for (host, port, expected) in [
        ("one.test", 5432, AppProtocol::Tcp),
        ("none.test", 80, AppProtocol::Http),
        ("one.test", 80, AppProtocol::Detect),
        ("nobody.test", 5432, AppProtocol::Detect),
    ] {
        let original_destination = SocketAddr::from(([240, 240, 1, 2], port));
        let connection = Connection { source: &source, original_destination, dialled_host: Some(host) };
        assert_eq!(declared_protocol(&snapshot, &connection), expected, "{host}:{port}");
    }
}

#[test]
fn a_name_that_is_not_registered_is_refused_in_every_mode() {
    for yaml in [DATABASES.to_owned(), format!("{DATABASES}{REGISTRY_ONLY}")] {
        let snapshot = snapshot(&yaml);
        for (host, port, sni) in [
            ("nobody.test", 5432, "-"),
            ("hidden.test", 5432, "-"),
            ("nobody.test", 5432, ""),
            ("nobody.test", 443, "nobody.test"),
            // The server name is not the host that was dialled.
            ("one.test", 443, "nobody.test"),
        ] {
            let refusal = refused(by_name(&snapshot, host, port, sni));
            assert_eq!(refusal.reason, Reason::NotRegistered, "{host}:{port} {sni:?}: {refusal}");
        }
        // HTTP for another host over the synthetic address of a registered one.
        let sent = Sent {
            authority: "nobody.test",
            to: "240.240.1.2:80",
            dialled_host: Some("none.test"),
            ..Sent::default()
        };
        let refusal = refused(sent.route(&snapshot));
        assert_eq!(refusal.reason, Reason::NotRegistered, "{refusal}");
    }
}

#[test]
fn another_port_of_a_registered_host_follows_the_mode() {
    let http = Sent {
        authority: "one.test",
        to: "240.240.1.2:80",
        dialled_host: Some("one.test"),
        ..Sent::default()
    };
    let open = snapshot(DATABASES);
    for decision in
        [by_name(&open, "one.test", 80, "-"), by_name(&open, "one.test", 80, "one.test"), http.route(&open)]
    {
        let upstream = forwarded(decision).upstream;
        assert_eq!(&*upstream.cluster, "PassthroughCluster");
        assert_eq!(upstream.endpoints, Endpoints::Dns(vec![("one.test".into(), 80)]));
    }
    let closed = snapshot(&format!("{DATABASES}{REGISTRY_ONLY}"));
    for decision in [
        by_name(&closed, "one.test", 80, "-"),
        by_name(&closed, "one.test", 80, "one.test"),
        http.route(&closed),
    ] {
        let refusal = refused(decision);
        assert_eq!(refusal.reason, Reason::NotRegistered);
        assert!(refusal.detail.contains("not on port 80"), "{refusal}");
    }
}

#[test]
fn host_and_server_name_decide_as_before() {
    let snapshot = snapshot(DATABASES);
    let sent = Sent {
        authority: "none.test",
        to: "240.240.1.2:80",
        dialled_host: Some("nobody.test"),
        ..Sent::default()
    };
    assert_eq!(&*forwarded(sent.route(&snapshot)).upstream.cluster, "outbound|80||none.test");
    let by_server_name = by_name(&snapshot, "nobody.test", 5432, "two.test");
    assert_eq!(&*forwarded(by_server_name).upstream.cluster, "outbound|5432||two.test");
}

#[test]
fn a_service_entry_that_is_not_valid_says_so() {
    let broken = DATABASES.replace("STATIC, endpoints: [{address: 203.0.113.1}]", "NEVER");
    let snapshot = crate::source::tests::load(&broken).snapshot;
    let refusal = refused(by_name(&snapshot, "one.test", 5432, "-"));
    assert_eq!(refusal.reason, Reason::NoDestination);
    assert!(refusal.detail.contains("default/one") && refusal.detail.contains("not valid"), "{refusal}");
}
