//! The CA protocol on the network, over TLS with the CA's own certificate. Who calls is proved by a token, and what it may have is
//! decided by `decision`.
//!
//! Everybody can connect: times, sizes and numbers are bounded, and one address cannot take them from the others.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Status};

use super::{
    Caller, Office, Rules,
    decision::Grant,
    limits::{Limits, Permit},
    method,
    protocol::{IstioCertificateRequest, IstioCertificateResponse, impersonated},
    tally::Tally,
};

/// A pause after `accept` fails, which it does when the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// For one request, from its header to the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
/// A connection is asked to end after this time ...
const LIFETIME: Duration = Duration::from_secs(15);
/// ... and cut off after this one.
const GRACE: Duration = Duration::from_secs(10);
/// Requests of one connection at a time.
const STREAMS: u32 = 16;
/// Header fields of a request; a token takes one or two KiB.
const MAX_HEADERS: u32 = 16 << 10;
/// What a connection may send without being read.
const WINDOW: u32 = 64 << 10;

/// Why a question about a caller has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// The caller could not prove who it is.
    Refused(String),
    /// Nobody could be asked; later, perhaps.
    Unavailable(String),
}

/// Knows who callers are and what runs where.
pub trait Callers: Send + Sync + 'static {
    /// Whose token that is.
    fn identify(&self, token: &str) -> impl Future<Output = Result<Caller, Unknown>> + Send;

    /// Whether a workload of this namespace and service account runs on the node now.
    fn runs(
        &self,
        node: &str,
        namespace: &str,
        service_account: &str,
    ) -> impl Future<Output = Result<bool, Unknown>> + Send;
}

/// The authority, or why there is none; `None` until that is known.
pub type Opening = Option<Result<Office, String>>;

/// All that answering takes.
pub struct Desk<C> {
    /// Who callers are.
    pub callers: C,
    /// What they may have.
    pub rules: Rules,
    /// Who signs.
    pub office: watch::Receiver<Opening>,
    /// What was issued and refused.
    pub tally: Arc<Tally>,
}

/// Serves the CA protocol on `listener` until `drain`, then finishes what is in progress.
pub async fn serve<C: Callers>(listener: TcpListener, desk: Desk<C>, drain: CancellationToken) {
    let desk = Arc::new(desk);
    let limits = Arc::new(Limits::default());
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = drain.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let peer = canonical(peer);
                match limits.admit(peer) {
                    Some(permit) => {
                        let connection = connection(
                            stream,
                            peer,
                            permit,
                            Arc::clone(&desk),
                            Arc::clone(&limits),
                            drain.clone(),
                        );
                        connections.spawn(connection);
                    }
                    None => desk.tally.turned_away(peer),
                }
            }
            Err(e) => {
                tracing::warn!(error = %e, "the CA cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

fn canonical(peer: SocketAddr) -> IpAddr {
    peer.ip().to_canonical()
}

async fn connection<C: Callers>(
    stream: TcpStream,
    peer: IpAddr,
    _permit: Permit,
    desk: Arc<Desk<C>>,
    limits: Arc<Limits>,
    drain: CancellationToken,
) {
    let tls = match timeout(HANDSHAKE_TIMEOUT, handshake(stream, &desk)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(why)) => return tracing::debug!(%peer, "no connection to the CA: {why}"),
        Err(_) => return tracing::debug!(%peer, "no connection to the CA: the handshake took too long"),
    };
    let service = service_fn(move |request| {
        let (desk, limits) = (Arc::clone(&desk), Arc::clone(&limits));
        async move {
            let answer = method::respond(request, move |request| {
                let (desk, limits) = (Arc::clone(&desk), Arc::clone(&limits));
                async move {
                    let answer = desk.create(&limits, peer, &request).await;
                    match &answer {
                        Ok(_) => desk.tally.issued(),
                        Err(status) => desk.tally.refused(peer, status),
                    }
                    answer
                }
            });
            let late = |_| Ok(Status::deadline_exceeded("the request took too long").into_http());
            timeout(REQUEST_TIMEOUT, answer).await.unwrap_or_else(late)
        }
    });
    let mut connection = pin!(
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(MAX_HEADERS)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .serve_connection(TokioIo::new(tls), service)
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = async { tokio::select! { () = drain.cancelled() => {}, () = sleep(LIFETIME) => {} } } => {
            connection.as_mut().graceful_shutdown();
            timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(e) = result {
        tracing::debug!(%peer, error = %e, "a connection to the CA broke");
    }
}

async fn handshake<C>(
    stream: TcpStream,
    desk: &Desk<C>,
) -> Result<tokio_rustls::server::TlsStream<TcpStream>, String> {
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    let office = desk.open().map_err(|status| status.message().to_owned())?;
    let certificate = office.certificates.fetch(&office.identity).await.map_err(|e| e.to_string())?;
    let config = certificate.server_config_for_anyone();
    TlsAcceptor::from(Arc::new(config)).accept(stream).await.map_err(|e| e.to_string())
}

impl<C> Desk<C> {
    fn open(&self) -> Result<Office, Status> {
        match &*self.office.borrow() {
            Some(Ok(office)) => Ok(office.clone()),
            Some(Err(why)) => Err(Status::unavailable(format!("the CA has no usable key: {why}"))),
            None => Err(Status::unavailable("the CA is starting")),
        }
    }
}

impl<C: Callers> Desk<C> {
    async fn create(
        &self,
        limits: &Limits,
        peer: IpAddr,
        request: &Request<IstioCertificateRequest>,
    ) -> Result<IstioCertificateResponse, Status> {
        if limits.is_shut_out(peer) {
            return Err(Status::resource_exhausted(
                "this address failed to say who it is too often; it may try again in 10 s",
            ));
        }
        let credentials = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let Some(token) = credentials.and_then(|credentials| credentials.strip_prefix("Bearer ")) else {
            limits.failed(peer);
            return Err(Status::unauthenticated("the request has no service account token"));
        };
        let caller = self.callers.identify(token).await.map_err(|unknown| {
            if matches!(unknown, Unknown::Refused(_)) {
                limits.failed(peer);
            }
            status(unknown)
        })?;
        let office = self.open()?;
        let asked = impersonated(request.get_ref().metadata.as_ref());
        let grant = self.rules.decide(office.authority.trust_domain(), &caller, asked);
        let identity = match grant.map_err(|refusal| Status::new(refusal.code, refusal.sentence))? {
            Grant::Own(identity) => identity,
            Grant::IfOn { identity, node } => {
                let (namespace, account) = (identity.namespace(), identity.service_account());
                if !self.callers.runs(&node, namespace, account).await.map_err(status)? {
                    return Err(Status::permission_denied(format!(
                        "no pod of service account {namespace}/{account} runs on the agent's node {node}"
                    )));
                }
                identity
            }
        };
        method::sign(&office.authority, &identity, request.get_ref())
    }
}

fn status(unknown: Unknown) -> Status {
    match unknown {
        Unknown::Refused(why) => Status::unauthenticated(why),
        Unknown::Unavailable(why) => Status::unavailable(why),
    }
}
