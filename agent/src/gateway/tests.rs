//! The whole gateway: tunnels over real mutual TLS, configuration in YAML, upstreams on real sockets.

mod traces;

use std::{io, net::SocketAddr, pin::Pin, sync::Arc};

use rustls::{RootCertStore, server::WebPkiClientVerifier};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{
    serve,
    testing::{Bench, Server},
};
use crate::{
    flow::{FlowId, Verdict},
    hbone::{
        client::{self, Dial, Pool},
        headers::Connect,
        tunnel::Tunnel,
    },
    mesh::SpiffeId,
    reason::Reason,
    source::{directory::Loaded, tests::load},
    tls::{
        certificate::WorkloadCertificate,
        issuer::{self, Issuer},
        provider::provider,
        testing::{TestAuthority, with_uris},
    },
};

const GATEWAY: &str = "spiffe://cluster.local/ns/istio-system/sa/gateway";
const SLEEP: &str = "spiffe://cluster.local/ns/default/sa/sleep";
const OTHER: &str = "spiffe://cluster.local/ns/default/sa/other";

struct Mesh(TestAuthority);

impl Issuer for Mesh {
    fn issue<'a>(
        &'a self,
        identity: &'a SpiffeId,
    ) -> Pin<Box<dyn Future<Output = Result<WorkloadCertificate, issuer::Error>> + Send + 'a>> {
        Box::pin(async { Ok(self.0.workload(&identity.to_string())) })
    }
}

struct Dialer;

impl Dial for Dialer {
    fn dial(&self, gateway: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send + '_>> {
        Box::pin(TcpStream::connect(gateway))
    }
}

/// A gateway that listens, and workloads in front of it.
struct World {
    bench: Bench,
    mesh: Arc<Mesh>,
    address: SocketAddr,
    configuration: watch::Sender<Loaded>,
    drain: CancellationToken,
    served: JoinHandle<()>,
}

impl World {
    async fn start(yaml: &str) -> Self {
        let mesh = Arc::new(Mesh(TestAuthority::new()));
        let (configuration, snapshot) = watch::channel(load(yaml));
        let problems: Vec<_> =
            configuration.borrow().report.problems.iter().map(ToString::to_string).collect();
        assert!(!configuration.borrow().report.has_errors(), "{problems:#?}");
        let bench = Bench::with(snapshot, Arc::clone(&mesh) as Arc<dyn Issuer>);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = CancellationToken::new();
        let served = tokio::spawn(serve(listener, Arc::clone(&bench.gateway), drain.clone()));
        Self { bench, mesh, address, configuration, drain, served }
    }

    async fn open(&self, source: &str, destination: &str) -> Result<Tunnel, client::Error> {
        let certificate = Arc::new(self.mesh.0.workload(source));
        let gateway = client::Gateway { address: self.address, identity: GATEWAY.parse().unwrap() };
        let connect = Connect {
            original_destination: destination.parse().unwrap(),
            dialled_host: None,
            flow_id: Some(FlowId::random()),
            traceparent: None,
            baggage: None,
        };
        Pool::new(Arc::new(Dialer)).open(&certificate, &client::Gateways::only(gateway), &connect).await
    }

    /// One request of `source`, as curl would send it.
    async fn get(&self, source: &str, path: &str) -> String {
        let mut tunnel = self.open(source, "203.0.113.7:80").await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test.com\r\nConnection: close\r\n\r\n");
        tunnel.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tunnel.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }
}

const REGISTRY_ONLY: &str = "
apiVersion: egret.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec:
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
---
";

fn service_entry(http: SocketAddr, https: SocketAddr) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata: {{name: test-com, namespace: default}}
spec:
  hosts: [test.com]
  location: MESH_EXTERNAL
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1, ports: {{http: {}, https: {}}}}}]
  ports:
  - {{name: http, number: 80, protocol: HTTP}}
  - {{name: https, number: 443, protocol: HTTPS}}
---
",
        http.port(),
        https.port()
    )
}

/// The gateway's half of the tutorial: port 80 in, mutual TLS to port 443 out, and one path denied to `sleep`.
fn upgraded(ca: &str, certificate: &str, key: &str) -> String {
    let indented = |pem: &str| format!("    {}\n", pem.trim_end().replace('\n', "\n    "));
    format!(
        "
apiVersion: networking.istio.io/v1alpha3
kind: Gateway
metadata: {{name: egress-gateway, namespace: default}}
spec:
  selector: {{istio: egressgateway}}
  servers:
  - hosts: ['*']
    port: {{name: http, number: 80, protocol: HTTPS}}
    tls: {{mode: ISTIO_MUTUAL}}
---
apiVersion: networking.istio.io/v1alpha3
kind: VirtualService
metadata: {{name: via-egress, namespace: default}}
spec:
  hosts: [test.com]
  gateways: [egress-gateway, mesh]
  http:
  - match: [{{gateways: [mesh], port: 80}}]
    route: [{{destination: {{host: istio-egressgateway.istio-system.svc.cluster.local, port: {{number: 80}}}}}}]
  - match: [{{gateways: [egress-gateway], port: 80}}]
    route: [{{destination: {{host: test.com, port: {{number: 443}}}}}}]
---
apiVersion: networking.istio.io/v1alpha3
kind: DestinationRule
metadata: {{name: originate, namespace: default}}
spec:
  host: test.com
  trafficPolicy:
    portLevelSettings:
    - port: {{number: 443}}
      tls: {{mode: MUTUAL, credentialName: client, sni: test.com}}
---
apiVersion: v1
kind: Secret
metadata: {{name: client, namespace: istio-system}}
stringData:
  cacert: |
{}  cert: |
{}  key: |
{}---
apiVersion: security.istio.io/v1beta1
kind: AuthorizationPolicy
metadata: {{name: no-headers, namespace: istio-system}}
spec:
  action: DENY
  rules:
  - from: [{{source: {{principals: [cluster.local/ns/default/sa/sleep]}}}}]
    to: [{{operation: {{paths: [/headers], hosts: [test.com]}}}}]
",
        indented(ca),
        indented(certificate),
        indented(key)
    )
}

/// An HTTPS server for test.com that wants a client certificate of `authority`.
async fn mutual_server(authority: &TestAuthority) -> Server {
    let mut params = with_uris(&[]);
    params.subject_alt_names = vec![rcgen::SanType::DnsName("test.com".try_into().unwrap())];
    let issued = authority.issue(&params);
    let mut roots = RootCertStore::empty();
    roots.add(authority.root()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![issued.certificate.clone()], issued.key_der())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Server::echo_over(move |tcp| {
        let acceptor = acceptor.clone();
        async move { acceptor.accept(tcp).await }
    })
    .await
}

#[tokio::test]
async fn an_unregistered_host_is_refused_under_registry_only() {
    let world = World::start(REGISTRY_ONLY).await;
    let answer = world.get(SLEEP, "/").await;
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    assert!(answer.contains("egret-reason: not_registered\r\n"), "{answer}");
}

#[tokio::test]
async fn a_service_entry_is_enough_and_a_reload_takes_effect() {
    let server = Server::echo().await;
    let world = World::start(REGISTRY_ONLY).await;
    assert!(world.get(SLEEP, "/").await.starts_with("HTTP/1.1 502 "));
    let entry = service_entry(server.address, server.address);
    world.configuration.send_replace(load(&format!("{REGISTRY_ONLY}{entry}")));
    let answer = world.get(SLEEP, "/status/418").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let lines = world.bench.logged(2).await;
    assert_eq!(lines[1]["upstream_cluster"], "outbound|80||test.com");
    assert_eq!(lines[1]["service_entry"], "ServiceEntry default/test-com");
}

#[tokio::test]
async fn the_upgrade_to_mutual_tls_and_the_policy_work_as_written() {
    let outside = TestAuthority::new();
    let (plain, mutual) = (Server::echo().await, mutual_server(&outside).await);
    let client = outside.issue(&with_uris(&["spiffe://outside/client"]));
    let yaml = format!(
        "{REGISTRY_ONLY}{}{}",
        service_entry(plain.address, mutual.address),
        upgraded(&outside.root_pem(), &client.pem, &client.key.serialize_pem())
    );
    let world = World::start(&yaml).await;
    let answer = world.get(SLEEP, "/ok").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(
        answer.contains("seen-target: /ok\r\n") && answer.contains("seen-host: test.com\r\n"),
        "{answer}"
    );
    let denied = world.get(SLEEP, "/x/..//headers").await;
    assert!(denied.starts_with("HTTP/1.1 403 ") && denied.ends_with("RBAC: access denied"), "{denied}");
    assert!(world.get(OTHER, "/headers").await.starts_with("HTTP/1.1 200 "));
    assert_eq!((plain.connections(), mutual.connections()), (0, 1), "TLS only, and kept alive");
    let lines = world.bench.logged(3).await;
    assert_eq!(lines[0]["upstream_cluster"], "outbound|443||test.com");
    assert_eq!(lines[0]["upstream_tls_version"], "TLSv1.3");
    assert_eq!(lines[0]["principal"], "cluster.local/ns/default/sa/sleep");
    assert_eq!(lines[0]["destination_rule"], "DestinationRule default/originate");
    assert_eq!(lines[1]["policy"], "AuthorizationPolicy istio-system/no-headers[0]");
    let flows = world.bench.gateway.parts.flows.records();
    assert_eq!(flows[0].id.to_string(), lines[0]["flow_id"]);
    assert_eq!((flows[0].host.as_deref(), flows[0].requests), (Some("test.com"), 1));
    assert_eq!(flows[0].upstream_cluster.as_deref(), Some("outbound|443||test.com"));
    assert_eq!((flows[1].verdict, flows[1].reason), (Verdict::Denied, Reason::PolicyDenied));
    assert!(flows[0].sent > 0 && flows[0].received > 0);
}

#[tokio::test]
async fn a_drain_lets_the_request_in_flight_finish() {
    let (arrived, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (seen, wait) = (Arc::clone(&arrived), Arc::clone(&go_on));
    let server = Server::raw(move |mut stream| {
        let (seen, wait) = (Arc::clone(&seen), Arc::clone(&wait));
        async move {
            let _ = stream.read_u8().await;
            seen.notify_one();
            wait.notified().await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        }
    })
    .await;
    let world = World::start(&service_entry(server.address, server.address)).await;
    let request = async {
        let mut tunnel = world.open(SLEEP, "203.0.113.7:80").await.unwrap();
        tunnel.write_all(b"GET / HTTP/1.1\r\nHost: test.com\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        tunnel.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let drain = async {
        arrived.notified().await;
        world.drain.cancel();
        go_on.notify_one();
    };
    let (answer, ()) = tokio::join!(request, drain);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("ok"), "{answer}");
    tokio::time::timeout(std::time::Duration::from_secs(20), world.served).await.unwrap().unwrap();
}

/// Reads one answer of a connection that may go on: its head, and a body of the length that it names.
async fn read_answer(tunnel: &mut Tunnel) -> String {
    let mut answer = Vec::new();
    loop {
        answer.push(tunnel.read_u8().await.unwrap());
        if answer.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    let head = String::from_utf8(answer).unwrap().to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let length = length.map_or(0, |length| length.parse().unwrap());
    tunnel.read_exact(&mut vec![0; length]).await.unwrap();
    head
}

#[tokio::test]
async fn a_gateway_that_is_about_to_end_says_so_with_the_next_answer() {
    let server = Server::echo().await;
    let world = World::start(&service_entry(server.address, server.address)).await;
    let gateway = Arc::clone(&world.bench.gateway);
    let mut tunnel = world.open(SLEEP, "203.0.113.7:80").await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: test.com\r\n\r\n";
    tunnel.write_all(request).await.unwrap();
    let before = read_answer(&mut tunnel).await;
    assert!(before.starts_with("http/1.1 200 ") && !before.contains("connection: close"), "{before}");
    assert_eq!(gateway.tunnels(), 1);

    gateway.close_after_answers();
    // The connection is idle now, and still takes the request that may be on its way.
    tunnel.write_all(request).await.unwrap();
    let after = read_answer(&mut tunnel).await;
    assert!(after.starts_with("http/1.1 200 ") && after.contains("connection: close"), "{after}");
    assert_eq!(tunnel.read(&mut [0]).await.unwrap(), 0, "and then it ends");
    drop(tunnel);
    super::testing::until(|| gateway.tunnels() == 0).await;
    // New ones are taken until it drains.
    assert!(world.get(SLEEP, "/").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_rotated_secret_counts_for_the_next_request() {
    let (outside, wrong) = (TestAuthority::new(), TestAuthority::new());
    let server = mutual_server(&outside).await;
    let client = outside.issue(&with_uris(&["spiffe://outside/client"]));
    let yaml = |authority: &TestAuthority| {
        let secret = upgraded(&authority.root_pem(), &client.pem, &client.key.serialize_pem());
        format!("{}{secret}", service_entry(server.address, server.address))
    };
    let world = World::start(&yaml(&outside)).await;
    for (authority, status) in [(&outside, 200), (&wrong, 503), (&outside, 200)] {
        world.configuration.send_replace(load(&yaml(authority)));
        let answer = world.get(SLEEP, "/ok").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    }
}

fn port(name: &str, number: u16, protocol: &str, address: SocketAddr) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: [{name}.test]
  addresses: [203.0.113.7]
  resolution: STATIC
  endpoints: [{{address: 127.0.0.1, ports: {{{name}: {}}}}}]
  ports: [{{name: {name}, number: {number}, protocol: {protocol}}}]
---
",
        address.port()
    )
}

#[tokio::test]
async fn a_workloads_own_tls_passes_through_by_server_name() {
    let outside = TestAuthority::new();
    let server = mutual_server(&outside).await;
    let world =
        World::start(&format!("{REGISTRY_ONLY}{}", service_entry(server.address, server.address))).await;
    let client = outside.issue(&with_uris(&["spiffe://outside/client"]));
    let mut roots = RootCertStore::empty();
    roots.add(outside.root()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![client.certificate.clone()], client.key_der())
        .unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let tunnel = world.open(SLEEP, "203.0.113.7:443").await.unwrap();
    let mut tls = connector.connect("test.com".try_into().unwrap(), tunnel).await.unwrap();
    tls.write_all(b"GET / HTTP/1.1\r\nHost: test.com\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    tls.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    tls.shutdown().await.unwrap();
    let line = &world.bench.logged(1).await[0];
    assert_eq!((&line["requested_server_name"], &line["reason"]), (&"test.com".into(), &"completed".into()));

    let tunnel = world.open(SLEEP, "203.0.113.7:443").await.unwrap();
    let error = connector.connect("unknown.test".try_into().unwrap(), tunnel).await.unwrap_err();
    assert!(error.to_string().contains("UnrecognisedName"), "{error}");
}

#[tokio::test]
async fn a_declared_tcp_port_is_decided_before_the_tunnel_opens() {
    let server = Server::raw(|mut stream| async move {
        stream.write_all(b"220 ready\r\n").await.unwrap();
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    })
    .await;
    let policy = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-other, namespace: istio-system}
spec:
  action: DENY
  rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/other]}}]}]
";
    let yaml = format!("{REGISTRY_ONLY}{}{policy}", port("smtp", 25, "TCP", server.address));
    let world = World::start(&yaml).await;
    let mut tunnel = world.open(SLEEP, "203.0.113.7:25").await.unwrap();
    let mut banner = [0; 11];
    tunnel.read_exact(&mut banner).await.unwrap();
    assert_eq!(&banner, b"220 ready\r\n");
    let error = world.open(OTHER, "203.0.113.7:25").await.unwrap_err();
    assert!(error.to_string().contains("refused the tunnel with status 403"), "{error}");
    assert_eq!(server.connections(), 1);

    // A policy that comes later ends what it would not have let in, and nothing else changes it.
    world.configuration.send_replace(load(&yaml));
    tunnel.write_all(b"EHLO").await.unwrap();
    world.configuration.send_replace(load(&yaml.replace("sa/other", "sa/sleep")));
    let error = tunnel.read(&mut banner).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let lines = world.bench.logged(2).await;
    assert_eq!(
        (&lines[1]["reason"], &lines[1]["upstream_host"]),
        (&"policy_denied".into(), &server.address.to_string().into())
    );
}

#[tokio::test]
async fn a_later_policy_ends_a_websocket() {
    let server = Server::raw(|mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    })
    .await;
    let yaml = service_entry(server.address, server.address);
    let world = World::start(&yaml).await;
    let mut tunnel = world.open(SLEEP, "203.0.113.7:80").await.unwrap();
    let request = b"GET /ws HTTP/1.1\r\nHost: test.com\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    tunnel.write_all(request).await.unwrap();
    let mut head = [0; 12];
    tunnel.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    let policy = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-websockets, namespace: istio-system}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: [/ws]}}]}]
";
    world.configuration.send_replace(load(&format!("{yaml}{policy}")));
    let mut rest = Vec::new();
    // Reset or ended; what counts is that it is over.
    let _ = tunnel.read_to_end(&mut rest).await;
    let line = &world.bench.logged(1).await[0];
    assert_eq!((&line["reason"], &line["response_code"]), (&"policy_denied".into(), &101.into()));
}

#[tokio::test]
async fn a_wrong_authority_is_503_and_nothing_is_sent() {
    let (outside, wrong) = (TestAuthority::new(), TestAuthority::new());
    let server = mutual_server(&outside).await;
    let client = outside.issue(&with_uris(&["spiffe://outside/client"]));
    let yaml = format!(
        "{}{}",
        service_entry(server.address, server.address),
        upgraded(&wrong.root_pem(), &client.pem, &client.key.serialize_pem())
    );
    let world = World::start(&yaml).await;
    let answer = world.get(SLEEP, "/ok").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("egret-reason: upstream_tls\r\n"), "{answer}");
}

#[tokio::test]
async fn a_server_that_refuses_our_certificate_is_503_with_its_words() {
    let (outside, wrong) = (TestAuthority::new(), TestAuthority::new());
    let server = mutual_server(&outside).await;
    let client = wrong.issue(&with_uris(&["spiffe://outside/client"]));
    let yaml = format!(
        "{}{}",
        service_entry(server.address, server.address),
        upgraded(&outside.root_pem(), &client.pem, &client.key.serialize_pem())
    );
    let world = World::start(&yaml).await;
    let answer = world.get(SLEEP, "/ok").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("egret-reason: upstream_tls\r\n"), "{answer}");
}

#[tokio::test]
async fn the_gateways_own_surroundings_are_refused_before_the_tunnel_opens() {
    let world = World::start("").await;
    for destination in ["127.0.0.1:22", "169.254.169.254:80", "[::1]:80"] {
        let error = world.open(SLEEP, destination).await.unwrap_err();
        assert!(matches!(error, client::Error::Refused { .. }), "{error}");
    }
    assert!(
        world.bench.gateway.parts.flows.records().iter().all(|flow| flow.reason == Reason::NotRegistered)
    );
}
