//! What the gateway's tests share: a gateway without configuration, upstreams on real sockets, and decisions made by hand.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

use super::{
    Gateway, Parts, Settings,
    decide::Decided,
    http::{Decide, serve_http1},
    record::Record,
    tunnel::{Caller, Session},
};
use crate::{
    authz,
    denials::{Denial, Denials},
    dns::Resolver,
    flow::{FlowTable, Side},
    hbone::headers::Connect,
    mesh::{Snapshot, SpiffeId},
    reason::{Reason, Refusal},
    route::{Action, AppProtocol, Endpoints, Forward, LoadBalancer, RoutePath, TlsMode, Upstream},
    source::directory::Loaded,
    telemetry::{access_log::AccessLog, traces::Traces},
    tls::{certificate::WorkloadCertificate, issuer, store::CertificateStore},
    workers::Workers,
};

pub(super) struct NoIssuer;

impl issuer::Issuer for NoIssuer {
    fn issue<'a>(
        &'a self,
        _: &'a SpiffeId,
    ) -> Pin<Box<dyn Future<Output = Result<WorkloadCertificate, issuer::Error>> + Send + 'a>> {
        Box::pin(async { Err(issuer::Error("no issuer in this test".to_owned())) })
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A gateway and what it wrote down.
pub(super) struct Bench {
    pub(super) gateway: Arc<Gateway>,
    lines: Lines,
    denied: Mutex<mpsc::Receiver<Denial>>,
}

impl Bench {
    /// Without configuration and certificate.
    pub(super) fn new() -> Self {
        Self::with(watch::channel(Loaded::default()).1, Arc::new(NoIssuer))
    }

    pub(super) fn with(snapshot: watch::Receiver<Loaded>, issuer: Arc<dyn issuer::Issuer>) -> Self {
        Self::made_of(snapshot, issuer, None)
    }

    /// Without configuration, and traced.
    pub(super) fn traced(traces: Traces) -> Self {
        Self::made_of(watch::channel(Loaded::default()).1, Arc::new(NoIssuer), Some(traces))
    }

    fn made_of(
        snapshot: watch::Receiver<Loaded>,
        issuer: Arc<dyn issuer::Issuer>,
        traces: Option<Traces>,
    ) -> Self {
        let lines = Lines::default();
        let (denials, denied) = Denials::queue();
        let parts = Parts {
            snapshot,
            certificates: CertificateStore::new(issuer),
            identity: "spiffe://cluster.local/ns/istio-system/sa/gateway".parse().unwrap(),
            resolver: Resolver::table(&[("rebound.test", &["127.0.0.1"])]),
            flows: FlowTable::new(Side::Gateway, 100),
            access_log: AccessLog::to(lines.clone()).unwrap(),
            traces,
            denials,
            workers: Workers::here(),
        };
        Self { gateway: Gateway::new(Settings::default(), parts), lines, denied: Mutex::new(denied) }
    }

    pub(super) fn session(&self) -> Arc<Session> {
        self.described(None, None)
    }

    /// The same with this baggage and this parent.
    pub(super) fn described(&self, baggage: Option<&str>, traceparent: Option<&str>) -> Arc<Session> {
        let caller = Caller {
            source: "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap(),
            address: "10.0.0.1:40000".parse().unwrap(),
            local: "10.0.0.9:15008".parse().unwrap(),
            carrier: None,
        };
        let connect = Connect {
            original_destination: "203.0.113.7:80".parse().unwrap(),
            dialled_host: None,
            flow_id: None,
            traceparent: traceparent.map(str::to_owned),
            baggage: baggage.map(Into::into),
        };
        Session::open(Arc::clone(&self.gateway), caller, &connect)
    }

    /// A workload's connection to the HTTP server of the gateway.
    pub(super) fn http<D: Decide>(&self, decide: D) -> DuplexStream {
        let (client, io) = duplex(64 * 1024);
        tokio::spawn(serve_http1(io, self.session(), CancellationToken::new(), decide));
        client
    }

    /// The whole answer to raw bytes that end with `Connection: close`, or are refused.
    pub(super) async fn raw<D: Decide>(&self, decide: D, request: &str) -> String {
        let mut client = self.http(decide);
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// Denials that pods are to be told of, since the last question.
    pub(super) fn denied(&self) -> Vec<Denial> {
        let mut denied = self.denied.lock();
        std::iter::from_fn(|| denied.try_recv().ok()).collect()
    }

    /// Access log lines so far.
    pub(super) fn log(&self) -> Vec<serde_json::Value> {
        self.gateway.parts.access_log.flush();
        let text = String::from_utf8(self.lines.0.lock().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits until `count` lines are written.
    pub(super) async fn logged(&self, count: usize) -> Vec<serde_json::Value> {
        until(|| self.log().len() >= count).await;
        self.log()
    }
}

/// A gateway that has something to say of everything it measures.
pub(crate) fn busy() -> Arc<Gateway> {
    let bench = Bench::new();
    let session = bench.session();
    let mut request = Record::start(&session);
    request.note(|entry| (entry.protocol, entry.response_code) = (Some("HTTP/1.1"), 200));
    request.completed();
    Record::start(&session).carried();
    Record::start(&session).failed(&Refusal::new(Reason::PolicyDenied, "denied"));
    drop(request);
    bench.gateway
}

/// Waits for a state, for at most ten seconds.
pub(super) async fn until(mut state: impl FnMut() -> bool) {
    let wait = async {
        while !state() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the state comes");
}

/// A plain upstream at `address`.
pub(super) fn upstream(address: SocketAddr) -> Upstream {
    Upstream {
        cluster: "outbound|80||test.com".into(),
        host: "test.com".into(),
        port: 80,
        protocol: AppProtocol::Http,
        endpoints: Endpoints::Static(vec![address]),
        tls: TlsMode::Plain,
        load_balancer: LoadBalancer::RoundRobin,
        connect_timeout: Duration::from_secs(5),
    }
}

pub(super) fn forward(upstream: Upstream) -> Forward {
    Forward {
        upstream: Arc::new(upstream),
        path_and_query: None,
        authority: None,
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        timeout: None,
    }
}

pub(super) fn decided(outcome: Result<Action, Refusal>) -> Decided {
    Decided { policy: None, path: RoutePath::default(), outcome }
}

/// Every request goes the same way.
pub(super) fn always(forward: Forward) -> impl Decide {
    move |_: &_, _: &_| decided(Ok(Action::Forward(forward.clone())))
}

/// Every request is denied.
pub(super) fn denied(_: &Snapshot, _: &authz::Request<'_>) -> Decided {
    decided(Err(Refusal::new(Reason::PolicyDenied, "denied by rule 0 of a policy")))
}

/// An upstream on a real socket that counts the connections it accepted.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// Runs `serve` for every connection.
    pub(super) async fn raw<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                tokio::spawn(serve(stream));
            }
        });
        Self { address, connections }
    }

    /// An HTTP/1 server that answers with what it got: target, header fields and body.
    pub(super) async fn echo() -> Self {
        Self::echo_over(|tcp| async { Ok(tcp) }).await
    }

    /// The same over what `accept` makes of each connection.
    pub(super) async fn echo_over<F, IO>(
        accept: impl Fn(TcpStream) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = io::Result<IO>> + Send + 'static,
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Self::raw(move |stream| {
            let accept = accept.clone();
            async move {
                let Ok(stream) = accept(stream).await else { return };
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(echo))
                    .await;
            }
        })
        .await
    }

    /// The same in HTTP/2 with prior knowledge.
    pub(super) async fn echo_http2() -> Self {
        Self::raw(|stream| async {
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service_fn(echo))
                .await;
        })
        .await
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }
}

/// Answers with target, header fields and body of the request.
async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert("seen-target", parts.uri.to_string().parse().unwrap());
    for (name, value) in &parts.headers {
        let name = http::HeaderName::try_from(format!("seen-{name}")).unwrap();
        response.headers_mut().append(name, value.clone());
    }
    Ok(response)
}
