//! Traffic through the gateway, by Istio's names and labels ("Istio Standard Metrics"), so that people's dashboards keep working.
//!
//! `gateway::meter` finds the series of a route once and counts in it. A request and a byte are counted once, here, by the one who
//! knows the host; the reporter is `source`, as of Istio's own egress gateway. What Istio calls "sent" goes to the workload. Where
//! Istio has `unknown`, so has Egret: the far side, and a workload that its agent does not name.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, histogram::Histogram},
};

use super::{
    bounded::{Bounded, Labels, OTHER},
    page::Page,
};
use crate::flow::FlowHandle;

/// Routes with HTTP series of their own. One takes about 20 KB of the text.
const MOST_HTTP: usize = 500;
/// Routes with series of their own that are not HTTP.
const MOST_TCP: usize = 1_000;

/// The value of a label that is not known.
pub const UNKNOWN: &str = "unknown";

/// Milliseconds; some of those that Istio's proxies have, so that both can be summed.
const DURATIONS: [f64; 14] = [
    1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0, 30_000.0, 60_000.0,
];
/// Bytes, likewise.
const SIZES: [f64; 7] = [100.0, 1_000.0, 10_000.0, 60_000.0, 600_000.0, 3_600_000.0, 100_000_000.0];

/// Whose traffic it is.
#[derive(Clone, Debug)]
pub struct Source {
    /// Name of the workload, as its agent gives it, or [`UNKNOWN`].
    pub workload: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its SPIFFE ID.
    pub principal: Arc<str>,
}

/// From whom to where.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
pub struct Route {
    /// `source`.
    pub reporter: &'static str,
    /// Name of the workload.
    pub source_workload: Arc<str>,
    /// Namespace of the workload.
    pub source_workload_namespace: Arc<str>,
    /// SPIFFE ID of the workload.
    pub source_principal: Arc<str>,
    /// Not known.
    pub destination_workload: &'static str,
    /// Not known.
    pub destination_workload_namespace: &'static str,
    /// Not known.
    pub destination_principal: &'static str,
    /// The host as it is registered, `*.example.com` for all that a wildcard stands for; `PassthroughCluster` and
    /// `BlackHoleCluster` for hosts that are not registered.
    pub destination_service: Arc<str>,
    /// The same.
    pub destination_service_name: Arc<str>,
    /// Namespace of the ServiceEntry.
    pub destination_service_namespace: Arc<str>,
    /// `mutual_tls`: of the tunnel, as Istio's ztunnel has it.
    pub connection_security_policy: &'static str,
}

impl Route {
    /// From `source` to `service`, registered in `service_namespace`.
    pub fn new(source: &Source, service: &Arc<str>, service_namespace: &Arc<str>) -> Self {
        let Source { workload, namespace, principal } = source;
        Self {
            reporter: "source",
            source_workload: Arc::clone(workload),
            source_workload_namespace: Arc::clone(namespace),
            source_principal: Arc::clone(principal),
            destination_workload: UNKNOWN,
            destination_workload_namespace: UNKNOWN,
            destination_principal: UNKNOWN,
            destination_service: Arc::clone(service),
            destination_service_name: Arc::clone(service),
            destination_service_namespace: Arc::clone(service_namespace),
            connection_security_policy: "mutual_tls",
        }
    }

    fn other() -> Self {
        let other: Arc<str> = OTHER.into();
        let [workload, namespace, principal] = [&other; 3].map(Arc::clone);
        Self::new(&Source { workload, namespace, principal }, &other, &other)
    }
}

/// Requests of one route that ended alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
pub struct HttpLabels {
    /// From whom to where.
    #[prometheus(flatten)]
    pub route: Route,
    /// `http` or `grpc`.
    pub request_protocol: &'static str,
    /// Status sent to the workload; `0` when none was.
    pub response_code: Code,
    /// Status of a gRPC call; empty for others, as with Istio.
    pub grpc_response_status: GrpcStatus,
    /// Envoy's.
    pub response_flags: &'static str,
}

/// A status as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Code {
    /// None, or one that is registered.
    Known(u16),
    /// Another one.
    Other,
}

impl Code {
    /// Upstreams choose it, so what the registry of HTTP does not have is one.
    pub fn of(status: u16) -> Self {
        let is_known =
            |status| http::StatusCode::from_u16(status).is_ok_and(|code| code.canonical_reason().is_some());
        if status == 0 || is_known(status) { Self::Known(status) } else { Self::Other }
    }
}

impl prometheus_client::encoding::EncodeLabelValue for Code {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        match self {
            Self::Known(status) => status.encode(encoder),
            Self::Other => OTHER.encode(encoder),
        }
    }
}

/// A gRPC status as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum GrpcStatus {
    /// It was no gRPC call.
    None,
    /// One that gRPC has.
    Known(u16),
    /// Another one.
    Other,
}

impl GrpcStatus {
    /// Upstreams choose it, so what gRPC does not have (0 to 16) is one.
    pub fn of(status: Option<u16>) -> Self {
        match status {
            None => Self::None,
            Some(status @ 0..=16) => Self::Known(status),
            Some(_) => Self::Other,
        }
    }
}

impl prometheus_client::encoding::EncodeLabelValue for GrpcStatus {
    fn encode(
        &self,
        encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        match self {
            Self::None => "".encode(encoder),
            Self::Known(status) => status.encode(encoder),
            Self::Other => OTHER.encode(encoder),
        }
    }
}

impl Labels for HttpLabels {
    fn other() -> Self {
        Self {
            route: Route::other(),
            request_protocol: "http",
            response_code: Code::Other,
            grpc_response_status: GrpcStatus::Other,
            response_flags: OTHER,
        }
    }
}

/// What is counted of requests.
#[derive(Clone, Debug)]
pub struct Http {
    requests: Counter,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

impl Http {
    fn new() -> Self {
        Self {
            requests: Counter::default(),
            duration: Histogram::new(DURATIONS),
            request_bytes: Histogram::new(SIZES),
            response_bytes: Histogram::new(SIZES),
        }
    }

    /// One request with its answer. Bytes are those of the bodies, from and to the workload.
    pub fn count(&self, duration: Duration, request_bytes: u64, response_bytes: u64) {
        self.requests.inc();
        self.duration.observe(duration.as_secs_f64() * 1_000.0);
        self.request_bytes.observe(request_bytes as f64);
        self.response_bytes.observe(response_bytes as f64);
    }
}

/// Connections of one route that are not HTTP.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
pub struct TcpLabels {
    /// From whom to where.
    #[prometheus(flatten)]
    pub route: Route,
    /// `tcp`.
    pub request_protocol: &'static str,
    /// Envoy's, of those that were refused or failed; `-` of those that were carried.
    pub response_flags: &'static str,
}

impl Labels for TcpLabels {
    fn other() -> Self {
        Self { route: Route::other(), request_protocol: "tcp", response_flags: OTHER }
    }
}

/// What is counted of connections.
#[derive(Clone, Debug, Default)]
pub struct Tcp {
    opened: Counter,
    closed: Counter,
    failed: Counter,
    sent: Counter,
    received: Counter,
}

impl Tcp {
    /// One that was refused, or could not be opened.
    pub fn fail(&self) {
        self.failed.inc();
    }
}

/// All traffic of one gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// Requests.
    pub http: Bounded<HttpLabels, Http>,
    /// Connections that are not HTTP.
    pub tcp: Bounded<TcpLabels, Tcp>,
    open: Arc<Open>,
}

/// Connections that are open: their bytes are taken over when somebody asks, and cost nothing until then.
#[derive(Debug, Default)]
struct Open {
    next: AtomicU64,
    carried: Mutex<HashMap<u64, Arc<Bytes>>>,
}

#[derive(Debug)]
struct Bytes {
    tcp: Tcp,
    flow: Arc<FlowHandle>,
    /// How many have been counted, from and to the workload.
    counted: Mutex<(u64, u64)>,
}

impl Bytes {
    fn settle(&self) {
        let mut counted = self.counted.lock();
        let now = self.flow.bytes();
        self.tcp.received.inc_by(now.0.saturating_sub(counted.0));
        self.tcp.sent.inc_by(now.1.saturating_sub(counted.1));
        *counted = now;
    }
}

/// A connection that is carried. Dropping it counts its end.
#[derive(Debug)]
pub struct Carried {
    key: u64,
    bytes: Arc<Bytes>,
    open: Arc<Open>,
}

impl Drop for Carried {
    fn drop(&mut self) {
        self.open.carried.lock().remove(&self.key);
        self.bytes.settle();
        self.bytes.tcp.closed.inc();
    }
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            http: Bounded::new(MOST_HTTP, Http::new),
            tcp: Bounded::new(MOST_TCP, Tcp::default),
            open: Arc::default(),
        }
    }
}

impl Traffic {
    /// A connection was opened, and `flow` counts its bytes.
    pub fn carry(&self, tcp: Tcp, flow: &Arc<FlowHandle>) -> Carried {
        tcp.opened.inc();
        let key = self.open.next.fetch_add(1, Relaxed);
        let bytes = Arc::new(Bytes { tcp, flow: Arc::clone(flow), counted: Mutex::default() });
        self.open.carried.lock().insert(key, Arc::clone(&bytes));
        Carried { key, bytes, open: Arc::clone(&self.open) }
    }

    /// All of it.
    pub fn write(&self, page: &mut Page) {
        let open: Vec<_> = self.open.carried.lock().values().cloned().collect();
        for bytes in open {
            bytes.settle();
        }
        let registry = page.registry();
        registry.register("istio_requests", "HTTP requests", self.http.view(|http| &http.requests));
        registry.register(
            "istio_request_duration_milliseconds",
            "Milliseconds from the head of a request to the end of its answer",
            self.http.view(|http| &http.duration),
        );
        registry.register(
            "istio_request_bytes",
            "Bytes of request bodies",
            self.http.view(|http| &http.request_bytes),
        );
        registry.register(
            "istio_response_bytes",
            "Bytes of response bodies",
            self.http.view(|http| &http.response_bytes),
        );
        for (name, help, part) in [
            (
                "istio_tcp_connections_opened",
                "Connections that are not HTTP and reached their upstream",
                (|tcp| &tcp.opened) as fn(&Tcp) -> &Counter,
            ),
            ("istio_tcp_connections_closed", "Those of them that have ended", |tcp| &tcp.closed),
            (
                "istio_tcp_connections_failed",
                "Connections that are not HTTP and were refused, or did not reach their upstream",
                |tcp| &tcp.failed,
            ),
            ("istio_tcp_sent_bytes", "Bytes to workloads on connections that are not HTTP", |tcp| &tcp.sent),
            ("istio_tcp_received_bytes", "Bytes from workloads on connections that are not HTTP", |tcp| {
                &tcp.received
            }),
        ] {
            registry.register(name, help, self.tcp.view(part));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::{Code, GrpcStatus, HttpLabels, MOST_HTTP, Route, Source, TcpLabels, Traffic};
    use crate::{
        flow::{FlowId, FlowTable, Side},
        telemetry::metrics::{
            exposition::{Format, render},
            page::Page,
        },
    };

    fn route(service: &str) -> Route {
        let [workload, namespace, principal, service] =
            ["cart", "shop", "spiffe://td/ns/shop/sa/cart", service].map(Arc::from);
        Route::new(&Source { workload, namespace: Arc::clone(&namespace), principal }, &service, &namespace)
    }

    fn written(traffic: &Traffic) -> String {
        let mut page = Page::default();
        traffic.write(&mut page);
        render(page.registry(), Format::Text)
    }

    #[test]
    fn bytes_are_counted_while_a_connection_is_open_and_once() {
        let traffic = Traffic::default();
        let table = FlowTable::new(Side::Gateway, 1);
        let workload = "spiffe://td/ns/shop/sa/cart".parse().unwrap();
        let flow = Arc::new(table.open(FlowId::random(), workload, "203.0.113.7:5432".parse().unwrap()));
        let labels = TcpLabels { route: route("db.test"), request_protocol: "tcp", response_flags: "-" };
        let carried = traffic.carry(traffic.tcp.series(&labels), &flow);
        let value = |name: &str| {
            let text = written(&traffic);
            let line = text.lines().find(|line| line.starts_with(&format!("{name}{{"))).unwrap().to_owned();
            line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()
        };
        flow.add_sent(5);
        flow.add_received(7);
        assert_eq!(value("istio_tcp_received_bytes_total"), 5);
        flow.add_sent(1);
        drop(carried);
        assert_eq!((value("istio_tcp_received_bytes_total"), value("istio_tcp_sent_bytes_total")), (6, 7));
        assert_eq!(value("istio_tcp_connections_opened_total"), 1);
        assert_eq!(value("istio_tcp_connections_closed_total"), 1);
        assert!(traffic.open.carried.lock().is_empty());
    }

    #[test]
    fn a_full_page_stays_within_reason() {
        let traffic = Traffic::default();
        for number in 0..2 * MOST_HTTP {
            let route = route(&format!("host-{number}.with.a.name.of.usual.length.example.com"));
            let labels = HttpLabels {
                route,
                request_protocol: "http",
                response_code: Code::of(200),
                grpc_response_status: GrpcStatus::None,
                response_flags: "-",
            };
            traffic.http.series(&labels).count(Duration::from_millis(3), 1, 1);
        }
        let text = written(&traffic);
        assert!(text.len() < 20_000_000, "{} bytes", text.len());
        assert!(text.contains(&format!("response_flags=\"other\"}} {MOST_HTTP}\n")));
    }

    #[test]
    fn codes_that_nobody_has_registered_are_one() {
        assert_eq!([200, 0, 418].map(Code::of), [200, 0, 418].map(Code::Known));
        assert_eq!([299, 599, 999, 1].map(Code::of), [Code::Other; 4]);
        assert_eq!([17, u16::MAX].map(|status| GrpcStatus::of(Some(status))), [GrpcStatus::Other; 2]);
    }
}
