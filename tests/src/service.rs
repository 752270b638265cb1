//! The external service: an ingress gateway that wants client certificates, with httpbin behind it.
//!
//! Port 80 is plain HTTP. Port 443 requires a client certificate and has a policy of its own (see [`policy`]). Every
//! request becomes one JSON line in a file before it is answered: what the tests take as proof of what arrived, and how.
//!
//! `egret-external serve` runs it, in the namespace it was started in.

pub mod httpbin;
mod log;
mod policy;
mod tls;

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result};
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use self::log::RequestLog;

/// What the service is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address of the plain port.
    pub http: SocketAddr,
    /// Address of the TLS port.
    pub https: SocketAddr,
    /// Certificate chain of the TLS port (PEM).
    pub certificate: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
    /// Who signs the certificates of clients (PEM).
    pub client_ca: PathBuf,
    /// The request log.
    pub log: PathBuf,
}

/// Both ports, bound: connections are accepted from now on, and served by [`Service::run`].
pub struct Service {
    http: TcpListener,
    https: TcpListener,
    acceptor: TlsAcceptor,
    log: Arc<RequestLog>,
}

impl Service {
    /// Reads certificates and binds both ports.
    pub async fn bind(settings: &Settings) -> Result<Self> {
        let bind = async |address: SocketAddr| {
            TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
        };
        Ok(Self {
            acceptor: tls::acceptor(&settings.certificate, &settings.key, &settings.client_ca)?,
            http: bind(settings.http).await?,
            https: bind(settings.https).await?,
            log: Arc::new(RequestLog::open(&settings.log)?),
        })
    }

    /// Addresses of the plain and the TLS port.
    pub fn addresses(&self) -> Result<(SocketAddr, SocketAddr)> {
        Ok((self.http.local_addr()?, self.https.local_addr()?))
    }

    /// Serves until it is dropped.
    pub async fn run(self) -> Result<()> {
        loop {
            tokio::select! {
                accepted = self.http.accept() => {
                    let (stream, peer) = accepted.context("accept on the plain port")?;
                    let connection = Connection { peer, tls: None, log: Arc::clone(&self.log) };
                    tokio::spawn(connection.serve(stream));
                }
                accepted = self.https.accept() => {
                    let (stream, peer) = accepted.context("accept on the TLS port")?;
                    tokio::spawn(serve_tls(self.acceptor.clone(), stream, peer, Arc::clone(&self.log)));
                }
            }
        }
    }
}

/// What a request's connection tells about it.
struct Connection {
    peer: SocketAddr,
    /// On the TLS port: the client's certificate.
    tls: Option<tls::Client>,
    log: Arc<RequestLog>,
}

async fn serve_tls(acceptor: TlsAcceptor, stream: TcpStream, peer: SocketAddr, log: Arc<RequestLog>) {
    match acceptor.accept(stream).await {
        Ok(stream) => {
            let client = tls::Client::of(stream.get_ref().1);
            Connection { peer, tls: Some(client), log }.serve(stream).await;
        }
        Err(error) => {
            let line = json!({
                "event": "tls_error", "peer": peer.to_string(), "tls": true, "error": error.to_string(),
            });
            log.write(&line);
        }
    }
}

impl Connection {
    async fn serve<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let connection = Arc::new(self);
        let service = service_fn(move |request: Request<Incoming>| {
            let connection = Arc::clone(&connection);
            async move { Ok::<_, Infallible>(connection.answer(request).await) }
        });
        let builder = auto::Builder::new(TokioExecutor::new());
        // A client that goes away in the middle is no news here; what it sent is in the log.
        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> httpbin::Response {
        let refused = self.tls.as_ref().is_some_and(|client| !policy::allows(client, request.uri().path()));
        self.log.request(&request, self.peer, self.tls.as_ref(), refused);
        if refused { policy::refusal() } else { httpbin::answer(request, self.peer).await }
    }
}

/// Reads a file of the service's settings, and says which one is unreadable.
fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
