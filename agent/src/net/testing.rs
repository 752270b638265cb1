//! What tests of streams share.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::take::TakeBytes;

/// A stream that, like TLS, keeps what it took until it is flushed; every second write and every second flush has to wait.
pub(crate) struct Holding {
    io: DuplexStream,
    held: Vec<u8>,
    writes: usize,
    flushes: usize,
}

impl Holding {
    pub(crate) fn new(io: DuplexStream) -> Self {
        Self { io, held: Vec::new(), writes: 0, flushes: 0 }
    }
}

/// Every second call has to wait.
fn waits(calls: &mut usize, cx: &Context<'_>) -> bool {
    *calls += 1;
    let waits = calls.is_multiple_of(2);
    if waits {
        cx.waker().wake_by_ref();
    }
    waits
}

impl AsyncRead for Holding {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Holding {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if waits(&mut self.writes, cx) {
            return Poll::Pending;
        }
        let n = bytes.len().min(8);
        self.held.extend_from_slice(&bytes[..n]);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if waits(&mut self.flushes, cx) {
            return Poll::Pending;
        }
        let this = &mut *self;
        while !this.held.is_empty() {
            let n = std::task::ready!(Pin::new(&mut this.io).poll_write(cx, &this.held))?;
            this.held.drain(..n);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl TakeBytes for Holding {}
