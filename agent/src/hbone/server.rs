//! The gateway's end: accepts the CONNECT streams of one TLS connection.

use std::{future::Future, sync::Arc};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::{headers::Connect, tunnel::Tunnel};
use crate::reason::Refusal;

/// A CONNECT request that waits for an answer; dropping it unanswered resets the stream.
pub struct Incoming {
    connect: Connect,
}

impl Incoming {
    /// The request.
    pub fn connect(&self) -> &Connect {
        &self.connect
    }

    /// Answers 200; the bytes follow.
    pub fn accept(self) -> Result<Tunnel, h2::Error> {
        unimplemented!()
    }

    /// Answers with the reason's status and the sentence in `egret-reason`.
    pub fn refuse(self, refusal: &Refusal) {
        let _ = refusal;
    }
}

/// Serves `io` until the peer is done or, after `drain`, its last stream is; `handler` runs once per stream, as its own
/// task. Requests that are not CONNECT to an IP address and port are answered 400 here.
pub async fn serve<IO, H, F>(io: IO, handler: Arc<H>, drain: CancellationToken) -> Result<(), h2::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Incoming) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let _ = (io, handler, drain);
    std::future::pending().await
}
