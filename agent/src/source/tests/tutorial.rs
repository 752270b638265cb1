//! The egress tutorial from its first step to its last, with the YAML as the tutorial has it.

use super::{Sent, forwarded, load, reason, refused, snapshot};
use crate::{
    authz::Decision,
    explain::{self, Outcome},
    mesh::Snapshot,
    reason::Reason,
    route::{AppProtocol, Connection, Endpoints, LoadBalancer, TlsMode, declared_protocol},
    source::codes,
};

const REGISTRY_ONLY: &str = "
---
apiVersion: egret.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh, namespace: istio-system}
spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
";
const SERVICE_ENTRY: &str = include_str!("tutorial/service-entry.yaml");
const GATEWAY: &str = include_str!("tutorial/gateway.yaml");
const ROUTE_80: &str = include_str!("tutorial/virtual-service-80.yaml");
const ROUTE_443: &str = include_str!("tutorial/virtual-service-443.yaml");
const RULE: &str = include_str!("tutorial/destination-rule.yaml");
const POLICY: &str = include_str!("tutorial/authorization-policy.yaml");
const SECRET: &str = "
---
apiVersion: v1
kind: Secret
metadata: {name: test.client, namespace: istio-system}
type: Opaque
stringData: {tls.crt: certificate, tls.key: key, ca.crt: authority}
";

fn step(parts: &[&str]) -> std::sync::Arc<Snapshot> {
    snapshot(&parts.join("\n---\n"))
}

#[test]
fn step_1_unregistered_hosts_pass_through() {
    let forward = forwarded(Sent::default().route(&step(&[])));
    assert_eq!(&*forward.upstream.cluster, "PassthroughCluster");
    assert_eq!(
        forward.upstream.endpoints,
        Endpoints::OriginalDestination("198.51.100.9:80".parse().unwrap())
    );
}

#[test]
fn step_2_registry_only_refuses_until_the_host_is_registered() {
    assert_eq!(reason(Sent::default().route(&step(&[REGISTRY_ONLY]))), Reason::NotRegistered);

    let registered = step(&[REGISTRY_ONLY, SERVICE_ENTRY]);
    let decision = Sent::default().route(&registered);
    assert_eq!(decision.path.service_entry.as_ref().unwrap().to_string(), "ServiceEntry default/test-com");
    let forward = forwarded(decision);
    assert_eq!(&*forward.upstream.cluster, "outbound|80||test.com");
    assert_eq!(forward.upstream.endpoints, Endpoints::Static(vec!["198.51.100.9:80".parse().unwrap()]));
    assert_eq!(forward.upstream.tls, TlsMode::Plain);
    // Other hosts, and other ports of this host, stay shut; the host's case, port and trailing dot do not matter.
    assert_eq!(
        reason(Sent { authority: "other.com", ..Sent::default() }.route(&registered)),
        Reason::NotRegistered
    );
    assert_eq!(
        reason(Sent { to: "198.51.100.9:8080", ..Sent::default() }.route(&registered)),
        Reason::NotRegistered
    );
    for authority in ["TEST.com", "test.com:80", "test.com."] {
        forwarded(Sent { authority, ..Sent::default() }.route(&registered));
    }
    // Clear bytes never go to the port declared HTTPS, under whatever name.
    let elsewhere = Sent { to: "198.51.100.9:443", authority: "other.com", ..Sent::default() };
    assert_eq!(reason(elsewhere.route(&step(&[SERVICE_ENTRY]))), Reason::TlsRequired);
    assert_eq!(
        reason(Sent { to: "198.51.100.9:443", ..Sent::default() }.route(&registered)),
        Reason::TlsRequired
    );
}

#[test]
fn step_2_ports_declare_their_protocol() {
    let registered = step(&[SERVICE_ENTRY]);
    let source = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
    for (to, expected) in [
        ("198.51.100.9:80", AppProtocol::Http),
        ("198.51.100.9:443", AppProtocol::Https),
        ("198.51.100.9:8080", AppProtocol::Detect),
        ("198.51.100.8:80", AppProtocol::Detect),
    ] {
        let connection =
            Connection { source: &source, original_destination: to.parse().unwrap(), dialled_host: None };
        assert_eq!(declared_protocol(&registered, &connection), expected, "{to}");
    }
}

#[test]
fn step_3_two_stages_lead_through_the_gateway() {
    let decision = Sent::default().route(&step(&[REGISTRY_ONLY, SERVICE_ENTRY, GATEWAY, ROUTE_80]));
    let (object, route) = decision.path.mesh_route.clone().unwrap();
    assert_eq!((object.to_string().as_str(), &*route), ("VirtualService default/egressgateway-vs", "0"));
    assert_eq!(&*decision.path.gateway_route.clone().unwrap().1, "1");
    assert_eq!(decision.path.gateway.clone().unwrap().to_string(), "Gateway default/egress-gateway");
    assert_eq!(&*forwarded(decision).upstream.cluster, "outbound|80||test.com");
    // Without the Gateway the second stage has nothing to take the request in.
    let decision = Sent::default().route(&step(&[SERVICE_ENTRY, ROUTE_80]));
    assert_eq!(reason(decision), Reason::NoRoute);
}

#[test]
fn step_4_is_refused_while_the_destination_rule_is_missing() {
    let refusal = refused(Sent::default().route(&step(&[SERVICE_ENTRY, GATEWAY, ROUTE_443])));
    assert_eq!(refusal.reason, Reason::TlsRequired);
    assert!(refusal.detail.contains("DestinationRule"), "{refusal}");
}

#[test]
fn step_4_originates_mutual_tls() {
    let all = [REGISTRY_ONLY, SERVICE_ENTRY, GATEWAY, ROUTE_443, RULE, SECRET];
    let snapshot = step(&all);
    let decision = Sent::default().route(&snapshot);
    assert_eq!(
        decision.path.destination_rule.clone().unwrap().to_string(),
        "DestinationRule default/originate-mtls-for-test-com"
    );
    let upstream = forwarded(decision).upstream;
    assert_eq!(&*upstream.cluster, "outbound|443||test.com");
    assert_eq!(upstream.endpoints, Endpoints::Static(vec!["198.51.100.9:443".parse().unwrap()]));
    assert_eq!(upstream.load_balancer, LoadBalancer::RoundRobin);
    let TlsMode::Originate(tls) = &upstream.tls else { panic!("{:?}", upstream.tls) };
    assert!(tls.mutual && !tls.insecure_skip_verify);
    assert_eq!((tls.credential_name.as_deref(), tls.sni.as_deref()), (Some("test.client"), Some("test.com")));
    let credential = &snapshot.credentials["test.client"];
    assert_eq!(credential.certificate.as_deref(), Some(&b"certificate"[..]));
    // The name check that Istio leaves out here is announced.
    let report = load(&all.join("\n---\n")).report;
    assert!(report.problems.iter().any(|problem| problem.code == codes::NAME_CHECK));
}

#[test]
fn step_5_denies_sleep_the_headers_and_nobody_else() {
    let snapshot = step(&[SERVICE_ENTRY, GATEWAY, ROUTE_443, RULE, POLICY]);
    let denied =
        |sent: Sent<'_>| matches!(sent.authorize(&snapshot), Decision::Deny(Some(by)) if by.rule == 0);
    assert!(denied(Sent { path: "/headers", ..Sent::default() }));
    assert!(
        denied(Sent { path: "/headers", authority: "TEST.COM:80", ..Sent::default() }),
        "HOST-01, HOST-02"
    );
    assert!(denied(Sent { path: "/headers", authority: "test.com.", ..Sent::default() }), "HOST-03");
    assert!(!denied(Sent { path: "/status/200", ..Sent::default() }));
    assert!(!denied(Sent { path: "/headers", authority: "other.com", ..Sent::default() }));
    let other = "spiffe://cluster.local/ns/default/sa/curl";
    assert!(!denied(Sent { path: "/headers", from: other, ..Sent::default() }));
}

#[test]
fn explain_tells_the_whole_way() {
    let snapshot = step(&[SERVICE_ENTRY, GATEWAY, ROUTE_443, RULE, SECRET, POLICY]);
    let headers = http::HeaderMap::new();
    let explain = |path: &'static str| {
        let source = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
        let connection = Connection {
            source: &source,
            original_destination: "198.51.100.9:80".parse().unwrap(),
            dialled_host: None,
        };
        let request = crate::route::HttpRequest {
            method: "GET",
            host: "test.com",
            authority: "test.com",
            path,
            query: None,
            headers: &headers,
        };
        explain::http(&snapshot, &connection, "10.0.0.1:1".parse().unwrap(), &request)
    };
    let explanation = explain("/status/200");
    let stages: Vec<_> = explanation.route.iter().map(|step| step.stage).collect();
    assert_eq!(stages, ["mesh_route", "gateway", "gateway_route", "service_entry", "destination_rule"]);
    let Outcome::Forward { tls: Some(tls), cluster, .. } = &explanation.outcome else {
        panic!("{explanation}")
    };
    assert_eq!(
        (cluster.as_str(), tls.mode, tls.credential_present),
        ("outbound|443||test.com", "MUTUAL", Some(true))
    );
    assert_eq!(tls.verified_names, ["test.com"]);
    assert!(explanation.to_string().contains("Secret istio-system/test.client"), "{explanation}");

    let explanation = explain("/headers");
    let Outcome::Refuse { reason, status, .. } = &explanation.outcome else { panic!("{explanation}") };
    assert_eq!((*reason, *status), (Reason::PolicyDenied, Some(403)));
    assert!(
        explanation.to_string().contains("rule 0 of AuthorizationPolicy istio-system/test"),
        "{explanation}"
    );
}
