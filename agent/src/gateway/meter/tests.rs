//! What requests and connections leave in the metrics.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    sync::watch,
};

use crate::{
    authz,
    gateway::{
        decide,
        decide::Decided,
        opaque,
        record::Record,
        testing::{Bench, NoIssuer, Server, always, decided, denied, forward, until, upstream},
    },
    mesh::{Kind, ObjectRef, Snapshot},
    reason::{Reason, Refusal},
    route::{AppProtocol, Upstream},
    source::tests::load,
    telemetry::metrics::{
        exposition::{Format, render},
        page::Page,
    },
};

const REGISTRY: &str = "
apiVersion: networking.istio.io/v1beta1
kind: ServiceEntry
metadata: {name: all-test, namespace: shop}
spec:
  hosts: ['*.test.com', test.com]
  resolution: NONE
  ports: [{name: http, number: 80, protocol: HTTP}]
";

fn page(bench: &Bench) -> String {
    let mut page = Page::default();
    bench.gateway.write_metrics(&mut page);
    render(page.registry(), Format::Text)
}

/// The sum of the samples of `name` that have all of `labels`.
fn value(text: &str, name: &str, labels: &[&str]) -> f64 {
    let samples = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
    let samples = samples.filter(|line| labels.iter().all(|label| line.contains(label)));
    samples.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

fn with_registry() -> Bench {
    Bench::with(watch::channel(load(REGISTRY)).1, Arc::new(NoIssuer))
}

const POST: &str = "POST / HTTP/1.1\r\nHost: test.com\r\nContent-Length: 4\r\nConnection: close\r\n\r\nping";

#[tokio::test]
async fn requests_are_counted_by_route_and_code() {
    let bench = with_registry();
    let server = Server::echo().await;
    for _ in 0..3 {
        bench.raw(always(forward(upstream(server.address))), POST).await;
    }
    for _ in 0..2 {
        bench.raw(denied, POST).await;
    }
    bench.logged(5).await;
    let text = page(&bench);
    let route = [
        "reporter=\"source\"",
        "source_workload_namespace=\"default\"",
        "source_principal=\"spiffe://cluster.local/ns/default/sa/sleep\"",
        "destination_service=\"test.com\"",
        "destination_service_namespace=\"shop\"",
        "request_protocol=\"http\"",
        "connection_security_policy=\"mutual_tls\"",
    ];
    let of = |name, code| value(&text, name, &[&route[..], &[code]].concat());
    assert!((of("istio_requests_total", "response_code=\"200\"") - 3.0).abs() < 0.1, "{text}");
    assert!((of("istio_requests_total", "response_code=\"403\"") - 2.0).abs() < 0.1, "{text}");
    assert!((value(&text, "istio_requests_total", &[]) - 5.0).abs() < 0.1, "{text}");
    assert!((of("istio_request_duration_milliseconds_count", "response_code=\"200\"") - 3.0).abs() < 0.1);
    for name in ["istio_request_bytes_sum", "istio_response_bytes_sum"] {
        assert!((of(name, "response_code=\"200\"") - 12.0).abs() < 0.1, "{name}\n{text}");
    }
    let refused = ["verdict=\"denied\"", "reason=\"policy_denied\"", "source_workload_namespace=\"default\""];
    assert!((value(&text, "egret_refusals_total", &refused) - 2.0).abs() < 0.1, "{text}");
}

/// An upstream that gives this answer to every request.
async fn answering(answer: &'static str) -> Server {
    Server::raw(move |mut stream| async move {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await
}

#[tokio::test]
async fn grpc_calls_are_counted_by_their_own_status() {
    let bench = with_registry();
    let call = |media_type: &str| {
        format!(
            "POST /Service/Call HTTP/1.1\r\nHost: test.com\r\nContent-Type: {media_type}\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n"
        )
    };
    let in_trailers = "HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\ngrpc-status: 5\r\n\r\n";
    let in_the_head = "HTTP/1.1 200 OK\r\nConnection: close\r\nGrpc-Status: 14\r\nContent-Length: 0\r\n\r\n";
    let of_nobody = "HTTP/1.1 200 OK\r\nConnection: close\r\nGrpc-Status: 99\r\nContent-Length: 0\r\n\r\n";
    for answer in [in_trailers, in_the_head, of_nobody] {
        let server = answering(answer).await;
        bench.raw(always(forward(upstream(server.address))), &call("application/grpc+proto")).await;
        bench.raw(always(forward(upstream(server.address))), &call("application/json")).await;
    }
    bench.raw(denied, &call("application/grpc")).await;
    let lines = bench.logged(7).await;
    let statuses: Vec<_> = lines.iter().filter_map(|line| line["grpc_status"].as_u64()).collect();
    assert_eq!(statuses, [5, 14, 99, 7]);
    let text = page(&bench);
    let of = |protocol: &str, status: &str| {
        let labels =
            [format!("request_protocol=\"{protocol}\""), format!("grpc_response_status=\"{status}\"")];
        value(&text, "istio_requests_total", &[&labels[0], &labels[1]])
    };
    for (protocol, status, count) in [
        ("grpc", "5", 1.0),
        ("grpc", "14", 1.0),
        ("grpc", "other", 1.0),
        ("grpc", "7", 1.0),
        ("http", "", 3.0),
    ] {
        assert!((of(protocol, status) - count).abs() < 0.1, "{protocol} {status}: {text}");
    }
}

#[tokio::test]
async fn workloads_have_the_names_that_their_agent_gives_them() {
    let bench = with_registry();
    for baggage in [
        Some("k8s.namespace.name=default,k8s.deployment.name=cart"),
        Some("k8s.namespace.name=other,k8s.deployment.name=forged"),
        None,
    ] {
        Record::start(&bench.described(baggage, None)).failed(&Refusal::new(Reason::NotRegistered, "none"));
    }
    let text = page(&bench);
    let of = |workload: &str| {
        let label = format!("source_workload=\"{workload}\"");
        value(&text, "istio_tcp_connections_failed_total", &[&label])
    };
    assert!((of("cart") - 1.0).abs() < 0.1 && (of("unknown") - 2.0).abs() < 0.1, "{text}");
    assert!(!text.contains("forged"), "{text}");
}

fn not_registered(_: &Snapshot, _: &authz::Request<'_>) -> Decided {
    decided(Err(Refusal::new(Reason::NotRegistered, "add a ServiceEntry")))
}

#[tokio::test]
async fn names_that_nobody_registered_are_in_no_label() {
    let bench = with_registry();
    for host in ["made-up.example", "x.y.z.test.com", "other.test.com"] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        bench.raw(not_registered, &request).await;
        bench.raw(denied, &request).await;
    }
    bench.logged(6).await;
    let text = page(&bench);
    assert!(!text.contains("made-up") && !text.contains("other.test.com"), "{text}");
    let denied = |service: &str| {
        value(
            &text,
            "istio_requests_total",
            &["response_code=\"403\"", &format!("destination_service=\"{service}\"")],
        )
    };
    assert!((denied("*.test.com") - 2.0).abs() < 0.1 && (denied("unknown") - 1.0).abs() < 0.1, "{text}");
    let black_hole = ["destination_service=\"BlackHoleCluster\"", "response_flags=\"NR\""];
    assert!((value(&text, "istio_requests_total", &black_hole) - 3.0).abs() < 0.1, "{text}");
}

#[tokio::test]
async fn connections_are_counted_while_they_are_open() {
    let bench = with_registry();
    let server = Server::raw(|mut stream| async move {
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(b"pong").await.unwrap();
        // Ends when its client does.
        drop(stream.read_to_end(&mut Vec::new()).await);
    })
    .await;
    let upstream = Upstream { protocol: AppProtocol::Tcp, ..upstream(server.address) };
    let (mut client, io) = duplex(1024);
    let decide = always(forward(upstream));
    let serving = tokio::spawn(opaque::serve(io, bench.session(), decide));
    client.write_all(b"ping!").await.unwrap();
    client.read_exact(&mut [0; 4]).await.unwrap();
    until(|| value(&page(&bench), "istio_tcp_sent_bytes_total", &[]) > 3.5).await;
    let text = page(&bench);
    let of = |name| value(&text, name, &["destination_service=\"test.com\"", "request_protocol=\"tcp\""]);
    assert!((of("istio_tcp_received_bytes_total") - 5.0).abs() < 0.1, "{text}");
    assert!((of("istio_tcp_connections_opened_total") - 1.0).abs() < 0.1, "{text}");
    assert!(of("istio_tcp_connections_closed_total").abs() < 0.1, "{text}");
    drop(client);
    serving.await.unwrap();
    let text = page(&bench);
    assert!((value(&text, "istio_tcp_connections_closed_total", &[]) - 1.0).abs() < 0.1, "{text}");
    assert!(value(&text, "istio_requests_total", &[]).abs() < 0.1, "no request: {text}");
}

#[tokio::test]
async fn a_refusal_names_its_object_and_no_rule_that_only_allowed() {
    let bench = Bench::new();
    let entry = ObjectRef::new(Kind::ServiceEntry, "shop", "all-test");
    let session = bench.session();
    let mut record = Record::start(&session);
    let snapshot = bench.gateway.snapshot();
    record.decided(&decide::tcp(&snapshot, &session.request(None, None)));
    record.failed(&Refusal::new(Reason::NoEndpoint, "none").by(entry));
    drop(record);
    let text = page(&bench);
    let labels = [
        "verdict=\"failed\"",
        "reason=\"no_endpoint\"",
        "object=\"ServiceEntry shop/all-test\"",
        "rule=\"\"",
    ];
    assert!((value(&text, "egret_refusals_total", &labels) - 1.0).abs() < 0.1, "{text}");
    let failed = value(&text, "istio_tcp_connections_failed_total", &["response_flags=\"UH\""]);
    assert!((failed - 1.0).abs() < 0.1, "{text}");
}
