//! One tunnel connection of a client: dialled, proved, shared by many streams, closed when idle.

use std::{
    fmt,
    future::{Future as _, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use h2::{Ping, client::SendRequest};
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Dial, Error, Gateway};
use crate::{
    flow::TunnelConnection,
    hbone::{
        driver::{Beat, Broken, Keepalive, poll_driven},
        gather::{Drain, Gather, gather},
        headers::{Connect, reason_in},
        settings::{
            ANSWER_TIMEOUT, CLIENT_PACE, CONNECTION_WINDOW, IDLE_BEATS, MAX_FRAME, MAX_HEADER_LIST,
            REMEMBER_RESETS_FOR, REMEMBERED_RESETS, STREAM_SEND_BUFFER, STREAM_WINDOW, USER_TIMEOUT,
        },
        tunnel::{Carrier, Place, Tunnel},
    },
    net::{gauge::Gauged, pacing, read_ahead::ReadAhead},
    tls::{
        certificate::{WorkloadCertificate, explain},
        session,
    },
};

type Io = TlsStream<ReadAhead<Gauged<TcpStream>>>;

/// The value of a [`Load`] that takes no more streams.
const CLOSED: usize = usize::MAX;

/// The streams of a connection, counted so that none is opened on a connection that is just being closed.
#[derive(Debug, Default)]
struct Load(AtomicUsize);

impl Load {
    /// A place among at most `max`.
    fn acquire(self: &Arc<Self>, max: usize) -> Option<StreamPermit> {
        self.0
            .fetch_update(SeqCst, SeqCst, |n| (n != CLOSED && n < max).then(|| n + 1))
            .ok()
            .map(|_| StreamPermit(Arc::clone(self)))
    }

    fn is_idle(&self) -> bool {
        self.0.load(SeqCst) == 0
    }

    /// Closes it if it has no streams.
    fn close_if_idle(&self) -> bool {
        self.0.compare_exchange(0, CLOSED, SeqCst, SeqCst).is_ok()
    }

    /// Closes it whatever it has; permits that are still out no longer count.
    fn close(&self) {
        self.0.store(CLOSED, SeqCst);
    }
}

/// A stream's place on its connection, given back when dropped.
#[derive(Debug)]
pub(in crate::hbone) struct StreamPermit(Arc<Load>);

impl Drop for StreamPermit {
    fn drop(&mut self) {
        // Err: the connection was closed meanwhile.
        let _ = self.0.0.fetch_update(SeqCst, SeqCst, |n| (n != CLOSED && n > 0).then(|| n - 1));
    }
}

/// A connection that streams can be opened on. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connection {
    send: SendRequest<Bytes>,
    load: Arc<Load>,
    carrier: Carrier,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("load", &self.load).finish_non_exhaustive()
    }
}

/// Why a stream could not be opened, and what may be tried instead. Nothing of the tunnel was sent in any case.
pub(super) struct OpenError {
    pub(super) error: Error,
    pub(super) again: Again,
}

/// What may be tried after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// Another connection, also to the same gateway: this one ended, which says little of the gateway.
    Anywhere,
    /// Another gateway.
    Elsewhere,
    /// Nothing: the gateway has decided.
    Never,
}

impl Connection {
    /// A place for one stream; `None` when the connection is full.
    pub(super) fn acquire(&self) -> Option<StreamPermit> {
        self.load.acquire(self.send.current_max_send_streams())
    }

    /// Streams that are open.
    pub(super) fn streams(&self) -> usize {
        Some(self.load.0.load(SeqCst)).filter(|n| *n != CLOSED).unwrap_or(0)
    }

    /// Whether new streams are out of the question for good: it ended, or the gateway said GOAWAY.
    pub(super) fn is_over(&self) -> bool {
        self.load.0.load(SeqCst) == CLOSED
            || matches!(
                self.send.clone().poll_ready(&mut Context::from_waker(Waker::noop())),
                Poll::Ready(Err(_))
            )
    }

    /// Opens a stream; `reused`: the connection was not made for it.
    pub(super) async fn open(
        &self,
        permit: StreamPermit,
        reused: bool,
        gateway: &Gateway,
        connect: &Connect,
    ) -> Result<Tunnel, OpenError> {
        let failed = |e: h2::Error| {
            let ended = e.is_io()
                || (e.is_go_away() && e.is_remote())
                || e.reason() == Some(h2::Reason::REFUSED_STREAM);
            let again = if ended { Again::Anywhere } else { Again::Elsewhere };
            OpenError { error: Error::Http2(gateway.address, e), again }
        };
        let exchange = async {
            let mut send = self.send.clone().ready().await?;
            let (response, stream) = send.send_request(connect.to_request(), false)?;
            Ok((response.await?, stream))
        };
        let (response, stream) = match tokio::time::timeout(ANSWER_TIMEOUT, exchange).await {
            Ok(result) => result.map_err(failed)?,
            Err(_) => {
                return Err(OpenError { error: Error::Timeout(gateway.address), again: Again::Elsewhere });
            }
        };
        let (head, recv) = response.into_parts();
        if head.status != http::StatusCode::OK {
            let error = Error::Refused {
                gateway: gateway.address,
                status: head.status.as_u16(),
                detail: reason_in(&head.headers),
            };
            return Err(OpenError { error, again: Again::Never });
        }
        let place = Place { carrier: self.carrier.clone(), reused, _permit: permit };
        Ok(Tunnel::new(stream, recv, Some(place)))
    }
}

/// Dials, and waits until the gateway has accepted our certificate and sent its settings. `ended` runs when the connection
/// is over.
///
/// A TLS 1.3 client is done before the server has looked at its certificate, so a refusal arrives with the first read. A
/// ping and its answer cost one round trip per connection, and turn that into an error of the handshake.
pub(super) async fn establish(
    dial: &dyn Dial,
    certificate: &WorkloadCertificate,
    gateway: &Gateway,
    ended: impl FnOnce() + Send + 'static,
) -> Result<Connection, Error> {
    let (address, began) = (gateway.address, Instant::now());
    let tcp = dial.dial(address).await.map_err(|e| Error::Dial(address, e))?;
    if let Err(e) = tcp.set_nodelay(true) {
        tracing::debug!(gateway = %address, error = %e, "TCP_NODELAY could not be set on a tunnel connection");
    }
    // What the keepalive gives up ends in the kernel, too, instead of being sent again for a quarter of an hour.
    if let Err(e) = SockRef::from(&tcp).set_tcp_user_timeout(Some(USER_TIMEOUT)) {
        tracing::debug!(gateway = %address, error = %e, "TCP_USER_TIMEOUT could not be set on a tunnel connection");
    }
    pacing::settle(&tcp);
    let tcp = Gauged::new(tcp);
    let gauge = tcp.gauge().clone();
    let connector = TlsConnector::from(certificate.client_config(&gateway.identity));
    let name = ServerName::IpAddress(address.ip().into());
    let tls =
        connector.connect(name, ReadAhead::new(tcp)).await.map_err(|e| Error::Tls(address, explain(e)))?;
    if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
        let error = io::Error::other("it does not speak HTTP/2 here; is this its HBONE port?");
        return Err(Error::Tls(address, error));
    }
    let session = session::of(tls.get_ref().1);
    let (io, drain) = gather(tls, None);
    let (send, mut connection) =
        builder().handshake(io).await.map_err(|e| broken(address, Broken::Http2(e)))?;
    let Some(mut pings) = connection.ping_pong() else {
        return Err(Error::Http2(address, h2::Reason::INTERNAL_ERROR.into()));
    };
    pings.send_ping(Ping::opaque()).map_err(|e| broken(address, Broken::Http2(e)))?;
    poll_fn(|cx| {
        let over = poll_driven(cx, &drain, |cx| Pin::new(&mut connection).poll(cx));
        if let Poll::Ready(over) = over {
            return Poll::Ready(match over {
                Ok(()) => Err(Error::Dial(
                    address,
                    io::Error::other("it closed the connection at once; it may be shutting down"),
                )),
                Err(e) => Err(broken(address, e)),
            });
        }
        pings.poll_pong(cx).map_ok(|_| ()).map_err(|e| broken(address, Broken::Http2(e)))
    })
    .await?;

    if send.current_max_send_streams() == 0 {
        // Tunnels would wait for a place for ever.
        return Err(Error::Http2(address, h2::Reason::REFUSED_STREAM.into()));
    }
    let described = TunnelConnection {
        gateway: address,
        established_us: Some(began.elapsed().as_micros() as u64),
        tls: session,
        certificate: certificate.name().cloned(),
    };
    let carrier = Carrier { connection: Arc::new(described), gauge };
    let load = Arc::new(Load::default());
    let keepalive = Keepalive::new(pings, CLIENT_PACE);
    let driver = drive(connection, drain, keepalive, Arc::clone(&load));
    tokio::spawn(async move {
        if let Err(e) = driver.await {
            tracing::debug!(gateway = %address, error = ?e, "tunnel connection broke");
        }
        ended();
    });
    Ok(Connection { send, load, carrier })
}

fn builder() -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buffer_size(STREAM_SEND_BUFFER)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .reset_stream_duration(REMEMBER_RESETS_FOR)
        // The limit is against hostile peers; the gateway has proved who it is, and tunnel connections live long.
        .max_local_error_reset_streams(None)
        .enable_push(false);
    builder
}

/// Before the gateway has shown that it accepts us, everything that breaks counts as part of the handshake.
fn broken(address: SocketAddr, broken: Broken) -> Error {
    match broken {
        Broken::Io(e) => Error::Tls(address, e),
        Broken::Http2(e) if e.is_io() => match e.into_io() {
            Some(e) => Error::Tls(address, e),
            None => Error::Tls(address, io::ErrorKind::ConnectionReset.into()),
        },
        Broken::Http2(e) => Error::Http2(address, e),
    }
}

/// Keeps the connection going until it ends, breaks, or has been idle for long enough.
async fn drive(
    mut connection: h2::client::Connection<Gather<Io>, Bytes>,
    drain: Drain<Io>,
    mut keepalive: Keepalive,
    load: Arc<Load>,
) -> Result<(), Broken> {
    let mut idle = 0;
    let mut closing = false;
    let result = poll_fn(|cx| {
        match keepalive.poll(cx, &drain, !load.is_idle()) {
            Beat::Dead => return Poll::Ready(Err(Broken::Io(io::ErrorKind::TimedOut.into()))),
            Beat::Tick => {
                idle = if load.is_idle() { idle + 1 } else { 0 };
                closing = closing || (idle >= IDLE_BEATS && load.close_if_idle());
            }
            Beat::Quiet => {}
        }
        if closing {
            return drain.poll_shutdown(cx).map_err(Broken::Io);
        }
        poll_driven(cx, &drain, |cx| Pin::new(&mut connection).poll(cx))
    })
    .await;
    load.close();
    result
}
