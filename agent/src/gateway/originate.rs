//! One connection to an upstream endpoint: TCP, then plain or TLS as the DestinationRule says.
//!
//! `pool` keeps what this makes for HTTP, `tls` and `opaque` use it once. Every failure is a precise [`Refusal`].

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::Gateway;
use crate::{
    flow::UpstreamConnection,
    mesh::Snapshot,
    net::{
        gauge::{Gauge, Gauged},
        pacing,
        read_ahead::ReadAhead,
        take::TakeBytes,
    },
    reason::{Reason, Refusal},
    route::{TlsMode, TlsOrigination, Upstream},
    tls::{
        originate::{Alpn, Client, Originator},
        session,
    },
};

/// How to secure connections to an upstream.
#[derive(Clone)]
pub(super) enum Transport {
    Plain,
    Tls(Arc<TlsOrigination>, Arc<Client>),
}

impl Transport {
    /// What `upstream` asks for, with the credential as it is now. `host` stands in where the registered host is a
    /// wildcard.
    pub(super) fn prepare(
        gateway: &Gateway,
        snapshot: &Snapshot,
        upstream: &Upstream,
        host: Option<&str>,
        alpn: Alpn,
    ) -> Result<Self, Refusal> {
        let TlsMode::Originate(origination) = &upstream.tls else { return Ok(Self::Plain) };
        let registered = &*upstream.host;
        let name = if registered.starts_with('*') { host.unwrap_or(registered) } else { registered };
        let client = gateway.originator.client(snapshot, origination, name, alpn)?;
        Ok(Self::Tls(Arc::clone(origination), client))
    }

    /// The refusal behind a failure that may be a TLS failure: a server that refuses our certificate says so only after
    /// a TLS 1.3 handshake.
    pub(super) fn explain(&self, error: &(dyn std::error::Error + 'static)) -> Option<Refusal> {
        let Self::Tls(origination, _) = self else { return None };
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(io) = error.downcast_ref::<io::Error>()
                && io.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
            {
                return Some(Originator::explain(origination, io));
            }
            next = error.source();
        }
        None
    }
}

/// The far end of an upstream connection, for logs and flow records.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) connection: Arc<UpstreamConnection>,
    pub(super) tls_version: Option<&'static str>,
    /// What the kernel knows of it.
    pub(super) gauge: Gauge,
}

/// The bytes of an upstream connection.
pub(super) enum Stream {
    Plain(Gauged<TcpStream>),
    Tls(Box<TlsStream<ReadAhead<Gauged<TcpStream>>>>),
}

impl Stream {
    /// Dropped after this, the connection is reset instead of closed: the workload's was.
    pub(super) fn reset_on_drop(&self) {
        let tcp = match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0.get_ref(),
        };
        // A socket that cannot be reset is closed, which is all that is left to do.
        let _ = tcp.set_zero_linger();
    }

    /// The application protocol that was agreed on.
    pub(super) fn alpn(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => tls.get_ref().1.alpn_protocol(),
        }
    }
}

/// Connects to `address`, an endpoint of `upstream`.
pub(super) async fn connect(
    address: SocketAddr,
    upstream: &Upstream,
    transport: &Transport,
    handshake_timeout: Duration,
) -> Result<(Stream, Peer), Refusal> {
    let (host, began) = (&upstream.host, Instant::now());
    let failed = |error: io::Error| {
        Refusal::new(Reason::UpstreamConnect, format!("{address} ({host}) cannot be connected: {error}"))
    };
    let connected = timeout(upstream.connect_timeout, TcpStream::connect(address)).await.map_err(|_| {
        let after = upstream.connect_timeout;
        Refusal::new(
            Reason::UpstreamConnect,
            format!("{address} ({host}) did not answer within {after:?} (connectTimeout)"),
        )
    })?;
    let tcp = connected.map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    pacing::settle(&tcp);
    let (connected, local, tcp) = (Instant::now(), tcp.local_addr().ok(), Gauged::new(tcp));
    let gauge = tcp.gauge().clone();
    let mut connection = UpstreamConnection {
        endpoint: address,
        local,
        connect_us: (connected - began).as_micros() as u64,
        tls_us: None,
        tls: None,
        sni: None,
        peer: None,
        certificate: None,
    };
    let Transport::Tls(origination, client) = transport else {
        let peer = Peer { connection: Arc::new(connection), tls_version: None, gauge };
        return Ok((Stream::Plain(tcp), peer));
    };
    let connector = TlsConnector::from(Arc::clone(&client.config));
    let handshake =
        timeout(handshake_timeout, connector.connect(client.server_name.clone(), ReadAhead::new(tcp)));
    let shaken = handshake.await.map_err(|_| {
        let detail = format!(
            "the TLS handshake with {address} ({host}) took longer than {} s; does the port speak TLS?",
            handshake_timeout.as_secs()
        );
        Refusal::new(Reason::UpstreamTls, detail).by(origination.object.clone())
    })?;
    let tls = shaken.map_err(|error| Originator::explain(origination, &error))?;
    let session = tls.get_ref().1;
    connection.tls_us = Some(connected.elapsed().as_micros() as u64);
    connection.tls = session::of(session);
    connection.sni = Some(client.server_name.to_str().into());
    connection.peer = session.peer_certificates().and_then(|chain| subject(chain.first()?));
    connection.certificate.clone_from(&client.certificate);
    let peer = Peer { connection: Arc::new(connection), tls_version: session::version(session), gauge };
    Ok((Stream::Tls(Box::new(tls)), peer))
}

fn subject(certificate: &[u8]) -> Option<Arc<str>> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(certificate.subject().to_string().into())
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

/// TLS and the kernel copy.
impl TakeBytes for Stream {}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, bytes),
            Self::Tls(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, slices),
            Self::Tls(io) => Pin::new(io).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
        }
    }
}
