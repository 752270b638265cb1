//! The shared egress gateway: mutual TLS in, authorization, routing, and the connection to the outside.
//!
//! `app` builds one [`Gateway`] and hands it a listener. Every tunnel is one egress connection (`tunnel`), told apart by
//! what it speaks (`protocol`), decided by the pure engines (`decide`), and forwarded by `http`, `tls` or `opaque`.
//! Reads no configuration files and knows nothing of the node agent.

mod address;
mod balancer;
mod decide;
mod http;
mod meter;
mod opaque;
mod originate;
mod pool;
pub mod protocol;
mod record;
mod refuse;
mod revoke;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tls;
mod tunnel;
mod upstream;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use http::normalise::{self, PathNormalisation};

use crate::{
    denials::Denials,
    dns::Resolver,
    flow::{FlowTable, TunnelConnection},
    hbone::{self, tunnel::Carrier},
    mesh::{Snapshot, SpiffeId},
    net::{gauge::Gauged, pacing, read_ahead::ReadAhead},
    source::directory::Loaded,
    telemetry::{
        access_log::AccessLog,
        metrics::{page::Page, refusals::Refusals, traffic::Traffic},
        traces::Traces,
    },
    tls::{certificate::peer_identity, originate::Originator, session, store::CertificateStore},
    workers::{self, Workers},
};
use balancer::Balancer;
use pool::Pool;

/// How long the gateway waits, and how much it keeps.
#[derive(Clone, Debug)]
pub struct Settings {
    /// For a TLS handshake, with a workload's agent or with an upstream.
    pub handshake_timeout: Duration,
    /// For the first bytes of a connection whose port declares no protocol; a connection that is silent longer is opaque,
    /// because its server speaks first. Istio's former default; declaring the port `TCP` avoids the wait.
    pub detection_timeout: Duration,
    /// For a request head, from its first byte to its last.
    pub request_head_timeout: Duration,
    /// For the next request on a kept-alive connection (Envoy's `idle_timeout`).
    pub keep_alive_timeout: Duration,
    /// For the next piece of a body, and for the head of an answer where the route sets no timeout
    /// (Envoy's `stream_idle_timeout`).
    pub stream_idle_timeout: Duration,
    /// For the answer to a workload that has ended its side of the connection: it may wait, or be gone.
    pub half_close_timeout: Duration,
    /// For the next byte of a connection that is not HTTP (Envoy's TCP proxy `idle_timeout`).
    pub tcp_idle_timeout: Duration,
    /// For the next request over a kept upstream connection.
    pub pool_idle_timeout: Duration,
    /// Idle upstream connections kept per endpoint.
    pub pool_idle_connections: usize,
    /// How paths are normalised.
    pub path_normalisation: PathNormalisation,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            detection_timeout: Duration::from_secs(5),
            request_head_timeout: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_hours(1),
            stream_idle_timeout: Duration::from_mins(5),
            half_close_timeout: Duration::from_secs(30),
            tcp_idle_timeout: Duration::from_hours(1),
            pool_idle_timeout: Duration::from_mins(1),
            pool_idle_connections: 128,
            path_normalisation: PathNormalisation::default(),
        }
    }
}

/// What the gateway is made of.
pub struct Parts {
    /// The configuration in force, read once per request or connection.
    pub snapshot: watch::Receiver<Loaded>,
    /// Where the gateway's own certificate comes from; asked per connection, so that a rotated one is used at once.
    pub certificates: CertificateStore,
    /// The gateway's identity.
    pub identity: SpiffeId,
    /// Resolves upstream names.
    pub resolver: Resolver,
    /// Flow records.
    pub flows: FlowTable,
    /// The access log.
    pub access_log: AccessLog,
    /// Traces; absent: requests pass as they are.
    pub traces: Option<Traces>,
    /// Tells pods of what was denied to them.
    pub denials: Denials,
    /// Where tunnel connections are served.
    pub workers: Workers,
}

/// The egress gateway. Shared by all its connections.
pub struct Gateway {
    settings: Settings,
    parts: Parts,
    originator: Originator,
    /// One per worker: a connection stays with those who opened it.
    pools: Vec<Arc<Pool>>,
    traffic: Traffic,
    refusals: Refusals,
    balancer: Arc<Balancer>,
    /// Tunnels that are open.
    tunnels: AtomicUsize,
    /// Kept-alive connections end after their next answer.
    closing: AtomicBool,
}

impl Gateway {
    /// A gateway that serves nothing yet.
    pub fn new(settings: Settings, parts: Parts) -> Arc<Self> {
        let workers = parts.workers.count();
        let pool = || Pool::new(settings.pool_idle_connections.div_ceil(workers), settings.pool_idle_timeout);
        let pools = (0..workers).map(|_| Arc::new(pool())).collect();
        Arc::new(Self {
            settings,
            parts,
            originator: Originator::new(),
            pools,
            traffic: Traffic::default(),
            refusals: Refusals::default(),
            balancer: Arc::default(),
            tunnels: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
        })
    }

    /// How many tunnels are open.
    pub fn tunnels(&self) -> usize {
        self.tunnels.load(Relaxed)
    }

    /// Everything that it counts.
    pub fn write_metrics(&self, page: &mut Page) {
        self.traffic.write(page);
        self.refusals.write(page);
        page.gauge("egret_tunnels", "Tunnels that are open at the gateway", self.tunnels() as f64);
        Pool::write_metrics(&self.pools, page);
        if let Some(traces) = &self.parts.traces {
            traces.write_metrics(page);
        }
        self.parts.denials.write_metrics(page);
        page.counter(
            "egret_access_log_lost_lines",
            "Lines of the access log that were lost, because its writer was too slow or failed",
            self.parts.access_log.lost(),
        );
        let overflow = [
            ("istio_requests", self.traffic.http.overflow()),
            ("istio_tcp_connections", self.traffic.tcp.overflow()),
            ("egret_refusals", self.refusals.overflow()),
        ];
        page.counters(
            "egret_metrics_overflow",
            "How often a series was wanted that did not fit any more, and was counted as `other`",
            overflow.map(|(family, count)| (vec![("family", family.to_owned())], count)),
        );
    }

    /// From now on tells HTTP/1 clients with every answer that their connection ends: they come back by another gateway. Nobody
    /// who just sends a request loses it by that.
    pub fn close_after_answers(&self) {
        self.closing.store(true, Relaxed);
    }

    /// The pool of this worker.
    fn pool(&self) -> &Arc<Pool> {
        &self.pools[workers::index() % self.pools.len()]
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.parts.snapshot.borrow().snapshot)
    }
}

/// Accepts tunnel connections until `drain`; returns when the last of them has ended.
pub async fn serve(listener: TcpListener, gateway: Arc<Gateway>, drain: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = drain.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        // To another runtime it goes as it is.
        match accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
            Ok((stream, peer)) => {
                let (gateway, drain) = (Arc::clone(&gateway), drain.clone());
                let place = gateway.parts.workers.place();
                let runtime = place.runtime.clone();
                let served = async move {
                    let _place = place;
                    if let Err(error) = serve_connection(stream, peer, gateway, drain).await {
                        tracing::debug!(%peer, %error, "tunnel connection ended");
                    }
                };
                connections.spawn_on(served, &runtime);
            }
            Err(error) => {
                tracing::warn!(%error, "a tunnel connection cannot be accepted");
                // Out of file descriptors: accept would fail again at once, and spin.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

async fn serve_connection(
    stream: std::net::TcpStream,
    peer: SocketAddr,
    gateway: Arc<Gateway>,
    drain: CancellationToken,
) -> io::Result<()> {
    let stream = TcpStream::from_std(stream)?;
    stream.set_nodelay(true)?;
    pacing::settle(&stream);
    // A listener on all addresses of both families shows IPv4 as a part of IPv6, which no policy means.
    let (peer, local) = (canonical(peer), canonical(stream.local_addr()?));
    let certificate = gateway.parts.certificates.fetch(&gateway.parts.identity).await.map_err(|error| {
        tracing::warn!(%error, "the gateway has no certificate, so tunnels are refused");
        io::Error::other(error)
    })?;
    let acceptor = TlsAcceptor::from(certificate.server_config());
    let stream = Gauged::new(stream);
    let gauge = stream.gauge().clone();
    let tls = timeout(gateway.settings.handshake_timeout, acceptor.accept(ReadAhead::new(stream)))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))??;
    let source = peer_identity(tls.get_ref().1)
        .ok_or_else(|| io::Error::other("the peer's certificate bears no workload identity"))?;
    let session = tls.get_ref().1;
    let connection = TunnelConnection {
        gateway: local,
        established_us: None,
        tls: session::of(session),
        certificate: session.peer_certificates().and_then(|chain| session::name(chain.first()?)),
    };
    let carrier = Carrier { connection: Arc::new(connection), gauge };
    let ending = drain.clone();
    let handler = Arc::new(move |incoming| {
        let caller =
            tunnel::Caller { source: source.clone(), address: peer, local, carrier: Some(carrier.clone()) };
        tunnel::serve(incoming, Arc::clone(&gateway), caller, ending.clone())
    });
    hbone::server::serve(tls, handler, drain).await.map_err(io::Error::other)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
