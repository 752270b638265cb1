//! The gateway's end: accepts the CONNECT streams of one TLS connection.

use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{Request, Response, StatusCode};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    driver::{Beat, Broken, Keepalive, poll_driven},
    flood::FrameMeter,
    gather::gather,
    headers::{BadConnect, Connect, REASON, reason_value},
    settings::{
        CONNECT_TIMEOUT, CONNECTION_WINDOW, MAX_FRAME, MAX_HEADER_LIST, MAX_PENDING_RESETS, MAX_STREAMS,
        REMEMBER_RESETS_FOR, REMEMBERED_RESETS, SERVER_PACE, STREAM_SEND_BUFFER, STREAM_WINDOW,
    },
    tunnel::Tunnel,
};
use crate::reason::Refusal;

/// A CONNECT request that waits for an answer; dropping it unanswered resets the stream.
pub struct Incoming {
    connect: Connect,
    recv: RecvStream,
    respond: SendResponse<Bytes>,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("connect", &self.connect).finish_non_exhaustive()
    }
}

impl Incoming {
    /// The request.
    pub fn connect(&self) -> &Connect {
        &self.connect
    }

    /// Answers 200; the bytes follow.
    pub fn accept(mut self) -> Result<Tunnel, h2::Error> {
        let send = self.respond.send_response(Response::new(()), false)?;
        Ok(Tunnel::new(send, self.recv, None))
    }

    /// Answers with the reason's status and the sentence in `egret-reason`.
    pub fn refuse(self, refusal: &Refusal) {
        let status = StatusCode::from_u16(refusal.reason.http_status())
            .ok()
            // A refusal must never read as an accepted tunnel.
            .filter(|status| !status.is_success())
            .unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        answer(self.respond, status, &refusal.detail);
    }
}

/// Ends the stream with a status; a client that is gone does not need it.
fn answer(mut respond: SendResponse<Bytes>, status: StatusCode, sentence: &str) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response.headers_mut().insert(REASON, reason_value(sentence));
    if let Err(e) = respond.send_response(response, true) {
        tracing::debug!(error = %e, "the answer to a refused tunnel could not be sent");
    }
}

/// Serves `io` until the peer is done or, after `drain`, its last stream is; `handler` runs once per stream, as its own
/// task. Requests that are not CONNECT to an IP address and port are answered 400 here.
///
/// For large reads wrap the socket in [`ReadAhead`](crate::net::read_ahead::ReadAhead) before TLS.
pub async fn serve<IO, H, F>(io: IO, handler: Arc<H>, drain: CancellationToken) -> Result<(), h2::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Incoming) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (io, gathered) = gather(io, Some(FrameMeter::for_client()));
    let mut handshake = pin!(builder().handshake::<_, Bytes>(io));
    let handshake = poll_fn(|cx| poll_driven(cx, &gathered, |cx| handshake.as_mut().poll(cx)));
    let mut connection = match timeout_at(Instant::now() + CONNECT_TIMEOUT, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(broken)) => return ended(broken),
        Err(_) => return Err(h2::Reason::SETTINGS_TIMEOUT.into()),
    };
    let Some(pings) = connection.ping_pong() else {
        return Err(h2::Reason::INTERNAL_ERROR.into());
    };
    let mut keepalive = Keepalive::new(pings, SERVER_PACE);
    let mut drained = pin!(drain.cancelled());
    let mut draining = false;
    let result = poll_fn(|cx| {
        if !draining && drained.as_mut().poll(cx).is_ready() {
            draining = true;
            connection.graceful_shutdown();
        }
        if let Beat::Dead = keepalive.poll(cx, &gathered, true) {
            return Poll::Ready(Err(Broken::Io(io::ErrorKind::TimedOut.into())));
        }
        poll_driven(cx, &gathered, |cx| accept_all(cx, &mut connection, &handler))
    })
    .await;
    match result {
        Ok(()) => Ok(()),
        Err(broken) => ended(broken),
    }
}

fn builder() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_send_buffer_size(STREAM_SEND_BUFFER)
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .reset_stream_duration(REMEMBER_RESETS_FOR);
    builder
}

/// A broken connection, told as h2 tells it: one that just ends is no error of the gateway's.
fn ended(broken: Broken) -> Result<(), h2::Error> {
    match broken {
        Broken::Http2(e) if e.is_io() => {
            tracing::debug!(error = %e, "tunnel connection broke");
            Ok(())
        }
        Broken::Http2(e) => Err(e),
        Broken::Io(e) => {
            tracing::debug!(error = %e, "tunnel connection broke");
            Ok(())
        }
    }
}

/// Polls the connection and hands out the requests it has.
fn accept_all<IO, H, F>(
    cx: &mut Context<'_>,
    connection: &mut h2::server::Connection<IO, Bytes>,
    handler: &Arc<H>,
) -> Poll<Result<(), h2::Error>>
where
    IO: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Incoming) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        match connection.poll_accept(cx) {
            Poll::Ready(Some(Ok((request, respond)))) => {
                if let Some(incoming) = incoming(request, respond) {
                    tokio::spawn(handler(incoming));
                }
            }
            Poll::Ready(Some(Err(e))) => return Poll::Ready(Err(e)),
            Poll::Ready(None) => return Poll::Ready(Ok(())),
            Poll::Pending => return Poll::Pending,
        }
    }
}

fn incoming(request: Request<RecvStream>, respond: SendResponse<Bytes>) -> Option<Incoming> {
    let (parts, recv) = request.into_parts();
    match Connect::from_request(&parts) {
        Ok(connect) => Some(Incoming { connect, recv, respond }),
        Err(bad @ (BadConnect::Method | BadConnect::Authority)) => {
            answer(respond, StatusCode::BAD_REQUEST, &bad.to_string());
            None
        }
    }
}
