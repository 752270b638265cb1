//! Spans, as a real collector gets them, and requests, as an upstream gets them.

use std::{fmt::Write as _, net::SocketAddr, sync::Arc};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, status::StatusCode},
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
    net::TcpListener,
};
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

use crate::{
    flow::FlowId,
    gateway::{
        decide::Decided,
        opaque,
        testing::{Bench, Server, always, decided, forward, upstream},
    },
    mesh::{Kind, ObjectRef},
    reason::{Reason, Refusal},
    route::{AppProtocol, Upstream},
    telemetry::{
        access_log::Entry,
        metrics::{
            exposition::{Format, render},
            page::Page,
        },
        traces::{Exporting, Finished, Traces, Tracing, context},
    },
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const SAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// What was sent to it.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> (Self, SocketAddr) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(collector.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        (collector, address)
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.0.lock();
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|spans| &spans.scope_spans).flat_map(|spans| spans.spans.clone()).collect()
    }
}

fn traces(collector: SocketAddr, percent: &str) -> (Traces, Exporting) {
    let tracing = Tracing {
        endpoint: format!("http://{collector}").parse().unwrap(),
        sampling: percent.parse().unwrap(),
    };
    Traces::start(&tracing, "istio-egressgateway.istio-system", Some("gateway-1")).unwrap()
}

/// Texts as they are, numbers in digits.
fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{key}: {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

fn get(fields: &str) -> String {
    format!("GET /a?secret=1 HTTP/1.1\r\nHost: test.com\r\n{fields}Connection: close\r\n\r\n")
}

#[tokio::test]
async fn a_request_is_a_child_of_its_workloads_span_and_parent_of_its_servers() {
    let (collector, address) = Collector::start().await;
    let (traces, exporting) = traces(address, "0");
    let bench = Bench::traced(traces);
    let server = Server::echo().await;
    let fields = format!("Traceparent: {SAMPLED}\r\nTracestate: vendor=1\r\n");
    let answer = bench.raw(always(forward(upstream(server.address))), &get(&fields)).await;
    let line = bench.logged(1).await.remove(0);
    exporting.end().await;
    let spans = collector.spans();
    let [span] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((&*hex(&span.trace_id), &*hex(&span.parent_span_id)), (TRACE, PARENT));
    let passed_on = format!("seen-traceparent: 00-{TRACE}-{}-01\r\n", hex(&span.span_id));
    assert!(answer.to_ascii_lowercase().contains(&passed_on), "{passed_on}: {answer}");
    assert!(answer.contains("seen-tracestate: vendor=1\r\n") && span.trace_state == "vendor=1", "{answer}");
    assert_ne!(hex(&span.span_id), PARENT);
    assert_eq!(span.name, "GET test.com");
    assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    assert_eq!(span.status.as_ref().map_or(0, |status| status.code), StatusCode::Unset as i32);
    let endpoint = server.address;
    for (key, value) in [
        ("http.request.method", Some("GET")),
        ("url.path", Some("/a")),
        ("server.address", Some("test.com")),
        ("server.port", Some("80")),
        ("http.response.status_code", Some("200")),
        ("network.protocol.version", Some("1.1")),
        ("network.peer.port", Some(&*endpoint.port().to_string())),
        ("upstream_cluster", Some("outbound|80||test.com")),
        ("response_flags", Some("-")),
        ("egret.flow.id", line["flow_id"].as_str()),
        ("egret.reason", Some("completed")),
        ("egret.verdict", Some("allowed")),
        ("egret.principal", Some("cluster.local/ns/default/sa/sleep")),
        ("error.type", None),
        ("url.query", None),
    ] {
        assert_eq!(attribute(&span.attributes, key).as_deref(), value, "{key}");
    }
    let requests = collector.0.lock();
    let resource = requests[0].resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(
        attribute(&resource.attributes, "service.name").as_deref(),
        Some("istio-egressgateway.istio-system")
    );
    assert_eq!(attribute(&resource.attributes, "k8s.pod.name").as_deref(), Some("gateway-1"));
}

fn by_policy(_: &crate::mesh::Snapshot, _: &crate::authz::Request<'_>) -> Decided {
    let policy = ObjectRef::new(Kind::AuthorizationPolicy, "istio-system", "no-headers");
    decided(Err(Refusal::new(Reason::PolicyDenied, "denied by rule 0").by(policy)))
}

#[tokio::test]
async fn a_denied_request_is_an_error_with_its_reason() {
    let (collector, address) = Collector::start().await;
    let (traces, exporting) = traces(address, "100");
    let bench = Bench::traced(traces);
    bench.raw(by_policy, &get("")).await;
    // ... and what is no request to anybody.
    bench.raw(by_policy, "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n").await;
    bench.logged(2).await;
    exporting.end().await;
    let spans = collector.spans();
    assert_eq!(spans.len(), 2);
    let denied = &spans[0];
    assert!(denied.parent_span_id.is_empty(), "the first of its trace");
    let status = denied.status.as_ref().unwrap();
    assert_eq!(status.code, StatusCode::Error as i32);
    assert!(status.message.contains("denied by rule 0"), "{}", status.message);
    for (key, value) in [
        ("error.type", "policy_denied"),
        ("egret.reason", "policy_denied"),
        ("egret.verdict", "denied"),
        ("egret.object", "AuthorizationPolicy istio-system/no-headers"),
        ("http.response.status_code", "403"),
    ] {
        assert_eq!(attribute(&denied.attributes, key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(attribute(&spans[1].attributes, "egret.reason").as_deref(), Some("bad_request"));
}

#[tokio::test]
async fn what_is_not_traced_passes_as_it_is_and_nothing_is_sent() {
    let (collector, address) = Collector::start().await;
    let (traces, exporting) = traces(address, "0");
    let server = Server::echo().await;
    for (bench, parent) in [
        (Bench::new(), Some(SAMPLED)),
        (Bench::new(), Some("of another format")),
        (Bench::new(), None),
        (Bench::traced(traces.clone()), Some(UNSAMPLED)),
        (Bench::traced(traces), None),
    ] {
        let fields = parent.map(|parent| format!("Traceparent: {parent}\r\nTracestate: vendor=1\r\n"));
        let request = get(&fields.unwrap_or_default());
        let answer = bench.raw(always(forward(upstream(server.address))), &request).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        match parent {
            Some(parent) => assert!(
                answer.contains(&format!("seen-traceparent: {parent}\r\n"))
                    && answer.contains("seen-tracestate: vendor=1\r\n"),
                "{answer}"
            ),
            None => assert!(!answer.contains("seen-trace"), "{answer}"),
        }
        bench.logged(1).await;
    }
    exporting.end().await;
    assert!(collector.0.lock().is_empty());
}

#[tokio::test]
async fn a_connection_is_a_child_of_the_span_that_opened_its_tunnel() {
    let (collector, address) = Collector::start().await;
    let (traces, exporting) = traces(address, "0");
    let bench = Bench::traced(traces);
    let server = Server::raw(|mut stream| async move { stream.write_all(b"220 ready").await.unwrap() }).await;
    for parent in [Some(SAMPLED), Some(UNSAMPLED), None] {
        let (mut client, io) = duplex(1024);
        let upstream = Upstream { protocol: AppProtocol::Tcp, ..upstream(server.address) };
        let session = bench.described(Some("k8s.namespace.name=default,k8s.deployment.name=mailer"), parent);
        let serving = tokio::spawn(opaque::serve(io, session, always(forward(upstream))));
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        serving.await.unwrap();
    }
    exporting.end().await;
    let spans = collector.spans();
    let [span] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((&*hex(&span.trace_id), &*hex(&span.parent_span_id)), (TRACE, PARENT));
    assert_eq!(span.name, "TCP test.com");
    assert_eq!(attribute(&span.attributes, "response_size").as_deref(), Some("9"));
    assert_eq!(attribute(&span.attributes, "egret.workload").as_deref(), Some("mailer"));
}

/// The number of spans that came to this.
fn count(bench: &Bench, outcome: &str) -> u64 {
    let mut page = Page::default();
    bench.gateway.write_metrics(&mut page);
    let text = render(page.registry(), Format::Text);
    let start = format!("egret_trace_spans_total{{outcome=\"{outcome}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    line.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

#[tokio::test]
async fn a_collector_that_is_away_or_says_nothing_harms_no_request() {
    // Takes connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = Server::echo().await;
    for address in [silent.local_addr().unwrap(), away] {
        let (traces, exporting) = traces(address, "100");
        let bench = Bench::traced(traces.clone());
        let answer = bench.raw(always(forward(upstream(server.address))), &get("")).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("seen-traceparent"), "{answer}");
        bench.logged(1).await;
        // More than any queue holds: they are lost, and it takes no time.
        for _ in 0..10_000 {
            let entry = Entry::new(
                jiff::Timestamp::now(),
                "cluster.local/ns/default/sa/sleep".into(),
                FlowId::random(),
                "203.0.113.7:80".parse().unwrap(),
                "10.0.0.1:40000".parse().unwrap(),
            );
            let begun = context::begin(None, 1.0, &mut rand::rng()).unwrap();
            let took = std::time::Duration::from_millis(1);
            traces.finish(Finished { begun, entry, took, workload: None, object: None });
        }
        assert!(count(&bench, "lost") >= 10_000 - 2 * 2048, "{}", count(&bench, "lost"));
        assert_eq!(count(&bench, "exported"), 0);
        let began = std::time::Instant::now();
        exporting.end().await;
        assert!(began.elapsed() < std::time::Duration::from_secs(5), "the end does not wait for it");
    }
}
