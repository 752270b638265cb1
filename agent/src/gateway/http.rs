//! Serves the HTTP of one tunnel, one [`exchange`] per request: HTTP/1 by [`http1`], HTTP/2 by hyper.
//!
//! `tunnel` calls it. The functions that decide are parameters, so that tests can put others in their place.

pub(super) mod body;
mod exchange;
mod forward;
pub(super) mod grpc;
mod head;
mod headers;
pub(super) mod http1;
pub mod normalise;
mod upgrade;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use ::http::{HeaderValue, Request, StatusCode, header::CONNECTION};
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::{decide::Decided, tunnel::Session};
use crate::{
    authz,
    flow::shared,
    mesh::Snapshot,
    net::{counted::Counted, linger::Linger, take::TakeBytes},
};
use body::Incoming;
use http1::server::{self, Patience};

/// RFC 9113 leaves it open; h2's own default would let one client hold 16 MiB of headers.
const MAX_HEADER_LIST: u32 = 64 * 1024;

/// Decides about one request.
pub(super) trait Decide:
    Fn(&Snapshot, &authz::Request<'_>) -> Decided + Clone + Send + Sync + 'static
{
}

impl<F> Decide for F where F: Fn(&Snapshot, &authz::Request<'_>) -> Decided + Clone + Send + Sync + 'static {}

/// Serves HTTP/1.1 until the workload is done or, after `drain`, its current request is.
pub(super) async fn serve_http1<IO, D>(io: IO, session: Arc<Session>, drain: CancellationToken, decide: D)
where
    IO: AsyncRead + TakeBytes + Unpin + Send + 'static,
    D: Decide,
{
    session.flow.update(|flow| flow.protocol = Some(shared("http")));
    let settings = &session.gateway.settings;
    let patience = Patience {
        idle: settings.keep_alive_timeout,
        head: settings.request_head_timeout,
        half_closed: settings.half_close_timeout,
    };
    let io = Linger::new(Counted::new(io, Arc::clone(&session.flow)));
    let service = |request: Result<Request<_>, _>| {
        let (session, decide) = (Arc::clone(&session), decide.clone());
        async move {
            let gateway = Arc::clone(&session.gateway);
            let mut response = match request {
                Ok(request) => exchange::serve(request.map(Incoming::Http1), session, true, decide).await,
                Err(violation) => exchange::refuse_violation(&session, &violation),
            };
            if gateway.closing.load(Relaxed) && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    };
    server::serve(io, patience, drain, service).await;
}

/// Serves HTTP/2 with prior knowledge, in the same way.
pub(super) async fn serve_http2<IO, D>(io: IO, session: Arc<Session>, drain: CancellationToken, decide: D)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    D: Decide,
{
    session.flow.update(|flow| flow.protocol = Some(shared("http")));
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let (session, decide) = (Arc::clone(&session), decide.clone());
        let request = request.map(Incoming::Http2);
        async move { Ok::<_, Infallible>(exchange::serve(request, session, false, decide).await) }
    });
    let io = Linger::new(Counted::new(io, Arc::clone(&session.flow)));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_concurrent_streams(1000)
        .serve_connection(TokioIo::new(io), service);
    let connection = std::pin::pin!(connection);
    drained(connection, http2::Connection::graceful_shutdown, drain).await;
}

/// Runs `connection`; when `drain` comes, tells it to take no further request.
async fn drained<C>(mut connection: Pin<&mut C>, end: impl FnOnce(Pin<&mut C>), drain: CancellationToken)
where
    C: Future<Output = hyper::Result<()>>,
{
    let result = tokio::select! {
        result = &mut connection => result,
        () = drain.cancelled() => {
            end(connection.as_mut());
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "HTTP connection of a workload ended");
    }
}

#[cfg(test)]
mod tests;
