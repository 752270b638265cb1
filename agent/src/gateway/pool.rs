//! Kept upstream HTTP connections, by endpoint and transport.
//!
//! `http::forward` takes a connection and sends over it; the connection comes back when the answer's body is over.
//! HTTP/1 connections carry one exchange at a time, HTTP/2 connections are shared. A connection is only reused with the
//! very TLS configuration it was made with: another credential, name or CA is another key.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use ::http::{Request, Response};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;

use super::{
    balancer::InFlight,
    http::{
        body::{Answered, RequestBody},
        http1::client::{self, Connection},
    },
    originate::{Peer, Stream, Transport},
};
use crate::{
    reason::{Reason, Refusal},
    telemetry::metrics::page::Page,
};

/// What an upstream connection can be reused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    address: SocketAddr,
    http2: bool,
    /// The generation of the TLS configuration, which has one name.
    tls: Option<u64>,
}

impl Key {
    /// Connections to `address` that are like one made with `transport`.
    pub(super) fn new(address: SocketAddr, http2: bool, transport: &Transport) -> Self {
        let tls = match transport {
            Transport::Plain => None,
            Transport::Tls(_, client) => Some(client.generation),
        };
        Self { address, http2, tls }
    }
}

enum Sender {
    /// Absent while it carries an exchange: the answer has it then.
    Http1(Option<Connection>),
    Http2(http2::SendRequest<RequestBody>),
}

/// A connection in use.
pub(super) struct Lease {
    sender: Sender,
    key: Key,
    /// The far end.
    pub(super) peer: Arc<Peer>,
    /// Whether it carried a request before, so that it may have gone stale.
    pub(super) reused: bool,
    /// Counts the exchange for load balancing, where there is a choice.
    pub(super) in_flight: Option<InFlight>,
}

impl Lease {
    /// Speaks HTTP over a fresh connection.
    pub(super) async fn open(key: Key, stream: Stream, peer: Peer) -> Result<Self, Refusal> {
        let reset = |error: hyper::Error| {
            Refusal::new(
                Reason::UpstreamReset,
                format!("HTTP with {} failed at once: {error}", peer.connection.endpoint),
            )
        };
        let sender = if key.http2 {
            // Plain upstreams are spoken to with prior knowledge, TLS ones must have agreed.
            if key.tls.is_some() && stream.alpn() != Some(b"h2") {
                return Err(Refusal::new(
                    Reason::UpstreamTls,
                    format!(
                        "{} does not speak HTTP/2 (ALPN), which the ServiceEntry declares for this port",
                        peer.connection.endpoint
                    ),
                ));
            }
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .adaptive_window(true)
                .keep_alive_interval(Duration::from_secs(30))
                .handshake(TokioIo::new(stream))
                .await
                .map_err(reset)?;
            spawn(connection, peer.connection.endpoint);
            Sender::Http2(sender)
        } else {
            Sender::Http1(Some(Connection::new(stream)))
        };
        Ok(Self { sender, key, peer: Arc::new(peer), reused: false, in_flight: None })
    }

    /// Sends a request.
    pub(super) async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Answered>, Unsent> {
        match &mut self.sender {
            Sender::Http1(connection) => {
                let Some(connection) = connection.take() else {
                    let request = Some(Box::new(request));
                    return Err(Unsent { error: SendError::Http1(client::Error::Ended), request });
                };
                match connection.send(request).await {
                    Ok(answer) => Ok(answer.map(|body| Answered::Http1(Box::new(body)))),
                    Err((error, request)) => {
                        Err(Unsent { error: SendError::Http1(error), request: request.map(Box::new) })
                    }
                }
            }
            Sender::Http2(sender) => match sender.try_send_request(request).await {
                Ok(answer) => Ok(answer.map(Answered::Http2)),
                Err(mut error) => {
                    let request = error.take_message().map(Box::new);
                    Err(Unsent { error: SendError::Http2(error.into_error()), request })
                }
            },
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Http1(client::Error),
    #[error(transparent)]
    Http2(hyper::Error),
}

/// A request that was not answered.
pub(super) struct Unsent {
    pub(super) error: SendError,
    /// It, where not a byte of it was taken.
    pub(super) request: Option<Box<Request<RequestBody>>>,
}

fn spawn(connection: impl Future<Output = Result<(), hyper::Error>> + Send + 'static, remote: SocketAddr) {
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%remote, %error, "upstream connection ended");
        }
    });
}

struct Idle {
    connection: Connection,
    peer: Arc<Peer>,
    since: Instant,
}

struct Shared {
    sender: http2::SendRequest<RequestBody>,
    peer: Arc<Peer>,
    last_used: Instant,
}

#[derive(Default)]
struct Connections {
    http1: HashMap<Key, Vec<Idle>>,
    http2: HashMap<Key, Shared>,
    sweeping: bool,
}

impl Connections {
    fn is_empty(&self) -> bool {
        self.http1.is_empty() && self.http2.is_empty()
    }
}

/// The pool of one worker of a gateway.
pub(super) struct Pool {
    capacity: usize,
    idle_timeout: Duration,
    connections: Mutex<Connections>,
    /// How often a kept connection was there, and how often one had to be opened.
    reused: Counter,
    opened: Counter,
}

impl Pool {
    /// A pool that keeps up to `capacity` idle connections per key, each for `idle_timeout`.
    pub(super) fn new(capacity: usize, idle_timeout: Duration) -> Self {
        Self {
            capacity,
            idle_timeout,
            connections: Mutex::default(),
            reused: Counter::default(),
            opened: Counter::default(),
        }
    }

    /// A usable connection, the most recently used first.
    pub(super) fn take(&self, key: &Key) -> Option<Lease> {
        let found = self.find(key);
        let counter = if found.is_some() { &self.reused } else { &self.opened };
        counter.inc();
        found
    }

    fn find(&self, key: &Key) -> Option<Lease> {
        let mut connections = self.connections.lock();
        if key.http2 {
            let shared = connections.http2.get_mut(key)?;
            if shared.sender.is_closed() {
                connections.http2.remove(key);
                return None;
            }
            shared.last_used = Instant::now();
            let (sender, peer) = (Sender::Http2(shared.sender.clone()), Arc::clone(&shared.peer));
            return Some(Lease { sender, key: *key, peer, reused: true, in_flight: None });
        }
        let idle = connections.http1.get_mut(key)?;
        while let Some(Idle { mut connection, peer, since }) = idle.pop() {
            // Dropping one that its server closed ends it.
            if since.elapsed() < self.idle_timeout && connection.is_open() {
                return Some(Lease {
                    sender: Sender::Http1(Some(connection)),
                    key: *key,
                    peer,
                    reused: true,
                    in_flight: None,
                });
            }
        }
        connections.http1.remove(key);
        None
    }

    /// Makes a fresh HTTP/2 connection available to others.
    pub(super) fn share(self: &Arc<Self>, lease: &Lease) {
        if let Sender::Http2(sender) = &lease.sender {
            let (sender, peer) = (sender.clone(), Arc::clone(&lease.peer));
            let mut connections = self.connections.lock();
            connections.http2.insert(lease.key, Shared { sender, peer, last_used: Instant::now() });
            self.sweep_later(&mut connections);
        }
    }

    /// Keeps a connection whose exchange is over.
    pub(super) fn give(self: &Arc<Self>, lease: Lease, connection: Connection) {
        if self.capacity == 0 {
            return;
        }
        let mut connections = self.connections.lock();
        let idle = connections.http1.entry(lease.key).or_default();
        if idle.len() >= self.capacity {
            idle.remove(0);
        }
        idle.push(Idle { connection, peer: lease.peer, since: Instant::now() });
        self.sweep_later(&mut connections);
    }

    /// What they hold, and how often that was of use.
    pub(super) fn write_metrics(pools: &[Arc<Self>], page: &mut Page) {
        let (mut idle, mut shared) = (0, 0);
        for pool in pools {
            let connections = pool.connections.lock();
            idle += connections.http1.values().map(Vec::len).sum::<usize>();
            shared += connections.http2.len();
        }
        let count = |counter: fn(&Self) -> &Counter| pools.iter().map(|pool| counter(pool).get()).sum();
        page.gauges(
            "egret_upstream_pool_connections",
            "Connections to upstreams that are kept: idle ones of HTTP/1, all of HTTP/2",
            [("http1", idle), ("http2", shared)]
                .map(|(protocol, count)| (vec![("protocol", protocol.to_owned())], count as f64)),
        );
        page.counters(
            "egret_upstream_pool_requests",
            "HTTP requests by whether a kept connection was there for them, or one had to be opened",
            [("reused", count(|pool| &pool.reused)), ("opened", count(|pool| &pool.opened))]
                .map(|(connection, count)| (vec![("connection", connection.to_owned())], count)),
        );
    }

    /// Idle connections, for tests.
    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        let mut connections = self.connections.lock();
        connections.http1.values_mut().flatten().map(|idle| usize::from(idle.connection.is_open())).sum()
    }

    /// Starts the sweeper unless it runs; it ends when there is nothing left to sweep, or no pool.
    fn sweep_later(self: &Arc<Self>, connections: &mut Connections) {
        if std::mem::replace(&mut connections.sweeping, true) {
            return;
        }
        let (pool, every) = (Arc::downgrade(self), self.idle_timeout);
        tokio::spawn(sweep(pool, every));
    }
}

async fn sweep(pool: Weak<Pool>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut connections = pool.connections.lock();
        connections.http1.retain(|_, idle| {
            idle.retain_mut(|idle| idle.since.elapsed() < every && idle.connection.is_open());
            !idle.is_empty()
        });
        connections
            .http2
            .retain(|_, shared| !shared.sender.is_closed() && shared.last_used.elapsed() < every);
        if connections.is_empty() {
            connections.sweeping = false;
            return;
        }
    }
}
