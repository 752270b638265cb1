//! A stream that closes gently: after our end of it was shut down, the peer gets time to close its own.
//!
//! A server that answers and closes while its client is still connected resets the connection, and a reset overtakes what
//! the client has not read yet (RFC 9112 §9.6). `gateway` wraps what it serves HTTP on.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::Handle,
    time::timeout,
};

use super::{scratch, take::TakeBytes};

/// How long the peer gets.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads until the peer has closed, and throws away what it says.
pub async fn drain(mut io: impl AsyncRead + Unpin) {
    let until_closed = async {
        while matches!(poll_fn(|cx| scratch::poll_read(&mut io, cx, <[u8]>::len)).await, Ok(1..)) {}
    };
    // Late or not, dropping is what comes next.
    let _ = timeout(PATIENCE, until_closed).await;
}

/// `io`; when it is dropped between our shutdown and the peer's, a task of its own waits for the peer.
pub struct Linger<IO: AsyncRead + Unpin + Send + 'static> {
    io: Option<IO>,
    shut: bool,
    read_all: bool,
}

impl<IO: AsyncRead + Unpin + Send + 'static> Linger<IO> {
    /// Wraps `io`.
    pub fn new(io: IO) -> Self {
        Self { io: Some(io), shut: false, read_all: false }
    }

    fn io(&mut self) -> io::Result<Pin<&mut IO>> {
        self.io.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<IO: AsyncRead + Unpin + Send + 'static> Drop for Linger<IO> {
    fn drop(&mut self) {
        if self.shut
            && !self.read_all
            && let (Some(io), Ok(runtime)) = (self.io.take(), Handle::try_current())
        {
            runtime.spawn(drain(io));
        }
    }
}

impl<IO: AsyncRead + Unpin + Send + 'static> AsyncRead for Linger<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(self.io()?.poll_read(cx, buf))?;
        self.read_all |= buf.filled().len() == before && buf.remaining() > 0;
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin + Send + 'static> AsyncWrite for Linger<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.io()?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.io()?.poll_shutdown(cx))?;
        self.shut = true;
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }
}

impl<IO: AsyncRead + TakeBytes + Unpin + Send + 'static> TakeBytes for Linger<IO> {
    fn poll_take(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<io::Result<usize>> {
        self.io()?.poll_take(cx, bytes)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::Linger;

    #[tokio::test]
    async fn what_the_peer_still_sends_is_taken_after_a_shutdown_only() {
        for shut in [true, false] {
            let (mut client, io) = duplex(4);
            let mut server = Linger::new(io);
            if shut {
                server.shutdown().await.unwrap();
            }
            drop(server);
            assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
            assert_eq!(client.write_all(b"more than the pipe holds").await.is_ok(), shut);
        }
    }
}
