//! Reads a socket in large pieces for a reader that asks for small ones.
//!
//! rustls reads at most 4 KiB per call: four system calls per full TLS record. Both ends of a tunnel, and the gateway towards an
//! upstream, wrap the socket in [`ReadAhead`] before TLS. Writes pass through.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::scratch;

/// An I/O object that is read in pieces of up to 64 KiB. Holds no buffer while nothing arrives.
#[derive(Debug)]
pub struct ReadAhead<IO> {
    io: IO,
    /// What was read and did not fit; once there was such, what follows is read into it at once.
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were handed out already.
    taken: usize,
}

impl<IO> ReadAhead<IO> {
    /// Wraps `io`.
    pub fn new(io: IO) -> Self {
        Self { io, buffer: Vec::new(), taken: 0 }
    }

    /// The object below.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ReadAhead<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.taken < this.buffer.len() {
            let n = put(buf, &this.buffer[this.taken..]);
            this.taken += n;
            return Poll::Ready(Ok(()));
        }
        this.taken = 0;
        this.buffer.clear();
        if buf.remaining() >= scratch::SIZE {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        if this.buffer.capacity() == 0 {
            // Nearly always its reader takes all of it at once.
            let rest = &mut this.buffer;
            return scratch::poll_read(&mut this.io, cx, |bytes| {
                let n = put(buf, bytes);
                if n < bytes.len() {
                    rest.reserve_exact(scratch::SIZE);
                    rest.extend_from_slice(&bytes[n..]);
                }
            });
        }
        match poll_read_buf(Pin::new(&mut this.io), cx, &mut this.buffer) {
            Poll::Ready(result) => result?,
            Poll::Pending => {
                this.buffer = Vec::new();
                return Poll::Pending;
            }
        };
        this.taken = put(buf, &this.buffer);
        Poll::Ready(Ok(()))
    }
}

/// Hands out what fits.
fn put(buf: &mut ReadBuf<'_>, bytes: &[u8]) -> usize {
    let n = bytes.len().min(buf.remaining());
    buf.put_slice(&bytes[..n]);
    n
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ReadAhead<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
