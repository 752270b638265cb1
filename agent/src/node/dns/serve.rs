//! Serves the DNS listeners of one workload in one network namespace until its token is cancelled.

use std::{future::Future, io, sync::Arc, time::Duration};

use tokio::{
    net::{
        TcpListener, TcpStream, UdpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, oneshot},
    time,
};
use tokio_util::sync::CancellationToken;

use super::{Listeners, Outcome, answer, forward, listener::Listener};
use crate::node::{
    agent::{Agent, Enrolled},
    presence::Presence,
    refuse,
};

/// Queries that wait for resolvers, and TCP connections, at a time per workload.
const CONCURRENCY: usize = 256;
/// A TCP connection on which nothing moves is closed after this long.
const IDLE: Duration = Duration::from_secs(30);

/// The room of a workload for what takes time, in all network namespaces together.
pub(in crate::node) fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(CONCURRENCY))
}

/// One listener, and for whom it is.
struct Server {
    agent: Arc<Agent>,
    enrolled: Arc<Enrolled>,
    presence: Arc<Presence>,
    resolver: std::net::SocketAddr,
    stop: CancellationToken,
}

/// Starts to serve.
pub(in crate::node) fn serve(
    agent: &Arc<Agent>,
    enrolled: &Arc<Enrolled>,
    presence: &Arc<Presence>,
    listeners: Listeners,
    stop: &CancellationToken,
) {
    for Listener { resolver, udp, tcp } in listeners.all {
        let server = Arc::new(Server {
            agent: Arc::clone(agent),
            enrolled: Arc::clone(enrolled),
            presence: Arc::clone(presence),
            resolver,
            stop: stop.clone(),
        });
        agent.connections.spawn(Arc::clone(&server).datagrams(Arc::new(udp)));
        agent.connections.spawn(server.streams(tcp));
    }
}

impl Server {
    async fn datagrams(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut query = vec![0; forward::MAX_MESSAGE];
        while let Some(received) = self.stop.run_until_cancelled(socket.recv_from(&mut query)).await {
            let (length, peer) = match received {
                Ok(received) => received,
                Err(e) => {
                    self.pause(&e).await;
                    continue;
                }
            };
            let query = &query[..length];
            let answer =
                match (self.resolve(query, true), Arc::clone(&self.enrolled.dns_room).try_acquire_owned()) {
                    (Some(answer), _) => Some(answer),
                    (None, Ok(permit)) => {
                        let (server, socket, query) =
                            (Arc::clone(&self), Arc::clone(&socket), query.to_vec());
                        self.agent.connections.spawn(async move {
                            let answer = server.forwarded(&query).await;
                            drop(permit);
                            server.reply(&socket, peer, answer).await;
                        });
                        continue;
                    }
                    (None, Err(_)) => self.failed(query, "too many queries are waiting"),
                };
            self.reply(&socket, peer, answer).await;
        }
    }

    async fn reply(&self, socket: &UdpSocket, peer: std::net::SocketAddr, answer: Option<Vec<u8>>) {
        if let Some(answer) = answer
            && let Err(e) = socket.send_to(&answer, peer).await
        {
            tracing::debug!(workload = %self.enrolled.workload.identity, %peer, "DNS answer not delivered: {e}");
        }
    }

    /// Asks the resolver.
    async fn forwarded(&self, query: &[u8]) -> Option<Vec<u8>> {
        self.agent.counters.dns_forwarded.increment();
        match forward::datagram(self.presence.namespace.as_ref(), self.resolver, query).await {
            Ok(answer) => Some(answer),
            Err(e) => self.failed(query, &e.to_string()),
        }
    }

    /// What we answer ourselves, counted.
    fn resolve(&self, query: &[u8], datagram: bool) -> Option<Vec<u8>> {
        let namespace = self.enrolled.workload.identity.namespace();
        let counters = &self.agent.counters;
        match self.agent.dns.resolve(namespace, self.presence.families(), query, datagram) {
            Outcome::Answered(answer) => {
                counters.dns_answered.increment();
                Some(answer)
            }
            Outcome::Failed(answer) => {
                counters.dns_failed.increment();
                Some(answer)
            }
            Outcome::Foreign => None,
        }
    }

    /// The answer to a query that could not be forwarded: clients go on with the next resolver.
    fn failed(&self, query: &[u8], why: &str) -> Option<Vec<u8>> {
        self.agent.counters.dns_failed.increment();
        tracing::debug!(workload = %self.enrolled.workload.identity, resolver = %self.resolver, "DNS query not forwarded: {why}");
        answer::failure_of(query)
    }

    async fn streams(self: Arc<Self>, listener: TcpListener) {
        while let Some(accepted) = self.stop.run_until_cancelled(listener.accept()).await {
            match (accepted, Arc::clone(&self.enrolled.dns_room).try_acquire_owned()) {
                (Ok((stream, _)), Ok(permit)) => {
                    self.agent.connections.spawn(Arc::clone(&self).stream(stream, permit));
                }
                (Ok((stream, _)), Err(_)) => {
                    self.agent.counters.dns_failed.increment();
                    refuse::reset(stream);
                }
                (Err(e), _) => self.pause(&e).await,
            }
        }
    }

    /// A full descriptor table must not end a listener.
    async fn pause(&self, error: &io::Error) {
        tracing::warn!(workload = %self.enrolled.workload.identity, "DNS listener: {error}");
        time::sleep(Duration::from_millis(50)).await;
    }

    async fn stream(self: Arc<Self>, stream: TcpStream, _permit: OwnedSemaphorePermit) {
        let (from_client, to_client) = stream.into_split();
        let to_client = Mutex::new(to_client);
        let (opened, opening) = oneshot::channel();
        let exchange = async {
            let answers = answers(opening, &to_client);
            tokio::pin!(answers);
            tokio::select! {
                // The resolver has ended the connection: so do we.
                outcome = &mut answers => return outcome,
                outcome = self.queries(from_client, &to_client, opened) => outcome?,
            }
            // The client asks no more, and waits for what it has asked.
            answers.await
        };
        if let Some(Err(e)) = self.stop.run_until_cancelled(exchange).await {
            tracing::debug!(workload = %self.enrolled.workload.identity, resolver = %self.resolver, "DNS over TCP: {e}");
        }
    }

    /// Answers queries, or sends them on over one connection, which is opened for the first of them.
    async fn queries(
        &self,
        mut from_client: OwnedReadHalf,
        to_client: &Mutex<OwnedWriteHalf>,
        opened: oneshot::Sender<OwnedReadHalf>,
    ) -> io::Result<()> {
        let (mut opened, mut to_resolver) = (Some(opened), None);
        while let Some(query) = within(forward::read(&mut from_client)).await? {
            if let Some(answer) = self.resolve(&query, false) {
                within(forward::write(&mut *to_client.lock().await, &answer)).await?;
                continue;
            }
            if let Some(opened) = opened.take() {
                match forward::connect(self.presence.namespace.as_ref(), self.resolver).await {
                    Ok(stream) => {
                        let (from, to) = stream.into_split();
                        to_resolver = Some(to);
                        // Its other end waits beside us.
                        let _ = opened.send(from);
                    }
                    Err(e) => {
                        if let Some(answer) = self.failed(&query, &e.to_string()) {
                            within(forward::write(&mut *to_client.lock().await, &answer)).await?;
                        }
                        return Ok(());
                    }
                }
            }
            if let Some(to_resolver) = &mut to_resolver {
                self.agent.counters.dns_forwarded.increment();
                within(forward::write(to_resolver, &query)).await?;
            }
        }
        Ok(())
    }
}

/// Passes on what the resolver says until it ends the connection; at once when none is opened.
async fn answers(
    opening: oneshot::Receiver<OwnedReadHalf>,
    to_client: &Mutex<OwnedWriteHalf>,
) -> io::Result<()> {
    let Ok(mut from_resolver) = opening.await else { return Ok(()) };
    while let Some(answer) = within(forward::read(&mut from_resolver)).await? {
        within(forward::write(&mut *to_client.lock().await, &answer)).await?;
    }
    Ok(())
}

/// Bounds a step of a TCP connection.
async fn within<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    time::timeout(IDLE, step).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
