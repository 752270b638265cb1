//! One tunnel as a byte stream.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

use super::client::StreamPermit;
use crate::{
    flow::TunnelConnection,
    net::{gauge::Gauge, take::TakeBytes},
};

/// The most that one write takes, so that a single copy never exceeds what h2 would buffer anyway.
const MAX_WRITE: usize = 64 << 10;

/// The bytes of one CONNECT stream, with half-close both ways: `poll_shutdown` sends END_STREAM, and a read of 0 bytes is the
/// peer's.
///
/// Dropping it is what closing a socket is. A tunnel that was not shut down is reset at once (RST_STREAM CANCEL), which reads
/// as `ConnectionReset`. One that was still delivers everything written, and only then tells a peer that has not ended that
/// nobody listens any more (RST_STREAM NO_ERROR from a gateway, RFC 9113 §8.1): that reads as the end, and writes fail.
///
/// As an [`AsyncBufRead`] it lends out what has arrived, so that copying from it needs no buffer.
pub struct Tunnel {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// Received and not yet read; still counted against the peer's window.
    unread: Bytes,
    /// END_STREAM was sent.
    sent_end: bool,
    /// END_STREAM was read.
    read_end: bool,
    /// Its place on a pooled connection; gateways have none.
    place: Option<Place>,
}

/// A connection under tunnels, for flow records. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Carrier {
    /// What is known of it.
    pub connection: Arc<TunnelConnection>,
    /// What the kernel knows of it.
    pub gauge: Gauge,
}

/// The place of a tunnel on a pooled connection.
pub(super) struct Place {
    pub(super) carrier: Carrier,
    /// The connection was there when the tunnel was wanted.
    pub(super) reused: bool,
    pub(super) _permit: StreamPermit,
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel")
            .field("stream", &self.send.stream_id())
            .field("sent_end", &self.sent_end)
            .field("read_end", &self.read_end)
            .finish_non_exhaustive()
    }
}

impl Tunnel {
    pub(super) fn new(send: SendStream<Bytes>, recv: RecvStream, place: Option<Place>) -> Self {
        Self { send, recv, unread: Bytes::new(), sent_end: false, read_end: false, place }
    }

    /// The pooled connection that carries it, and whether it was there when the tunnel was wanted. A gateway's tunnels have none.
    pub fn carrier(&self) -> Option<(&Carrier, bool)> {
        self.place.as_ref().map(|place| (&place.carrier, place.reused))
    }

    /// How many bytes of so many can be sent now.
    fn poll_room(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<io::Result<usize>> {
        if self.sent_end {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let wanted = bytes.min(MAX_WRITE);
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        self.send.reserve_capacity(wanted);
        // `poll_capacity` tells of changes only, so what is there already is taken first.
        let mut capacity = self.send.capacity();
        while capacity == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(granted)) => capacity = granted,
                Some(Err(_)) | None => return Poll::Ready(Err(self.send_error(cx))),
            }
        }
        Poll::Ready(Ok(wanted.min(capacity)))
    }

    /// Sends bytes for which there is room.
    fn send(&mut self, cx: &mut Context<'_>, bytes: Bytes) -> Poll<io::Result<usize>> {
        let sent = bytes.len();
        if sent == 0 {
            return Poll::Ready(Ok(0));
        }
        match self.send.send_data(bytes, false) {
            Ok(()) => Poll::Ready(Ok(sent)),
            Err(_) => Poll::Ready(Err(self.send_error(cx))),
        }
    }

    /// Why nothing more can be sent.
    fn send_error(&mut self, cx: &mut Context<'_>) -> io::Error {
        match self.send.poll_reset(cx) {
            // It read enough and ended regularly, or we did.
            Poll::Ready(Ok(Reason::NO_ERROR)) | Poll::Pending => io::ErrorKind::BrokenPipe.into(),
            Poll::Ready(Ok(reason)) => reset_error(reason),
            Poll::Ready(Err(e)) => stream_error(e),
        }
    }
}

/// The peer reset the stream.
fn reset_error(reason: Reason) -> io::Error {
    match reason {
        Reason::CANCEL | Reason::STREAM_CLOSED => io::ErrorKind::ConnectionReset.into(),
        other => io::Error::new(io::ErrorKind::ConnectionReset, h2::Error::from(other)),
    }
}

/// The stream failed, or the connection under it.
fn stream_error(error: h2::Error) -> io::Error {
    if error.is_reset()
        && let Some(reason) = error.reason()
    {
        return reset_error(reason);
    }
    // To the application a tunnel connection that breaks is a connection that is reset, whatever broke it.
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncBufRead for Tunnel {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.unread.is_empty() && !this.read_end {
            match ready!(this.recv.poll_data(cx)) {
                Some(Ok(data)) => this.unread = data,
                // Follows END_STREAM, which h2 forgets over it.
                Some(Err(e)) if e.is_reset() && e.reason() == Some(Reason::NO_ERROR) => this.read_end = true,
                Some(Err(e)) => return Poll::Ready(Err(stream_error(e))),
                None => this.read_end = true,
            }
        }
        Poll::Ready(Ok(&this.unread))
    }

    fn consume(mut self: Pin<&mut Self>, n: usize) {
        self.unread.advance(n);
        // The window opens as bytes are read, not as they arrive: a slow reader slows the sender. It cannot fail: these
        // bytes were received and not yet released.
        let _ = self.recv.flow_control().release_capacity(n);
        if self.unread.is_empty() {
            // Lets go of the frame's memory.
            self.unread = Bytes::new();
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let unread = ready!(self.as_mut().poll_fill_buf(cx))?;
        let n = unread.len().min(buf.remaining());
        buf.put_slice(&unread[..n]);
        self.consume(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let room = ready!(self.poll_room(cx, buf.len()))?;
        self.send(cx, Bytes::copy_from_slice(&buf[..room]))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection sends what it was given without being asked.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.sent_end {
            return Poll::Ready(Ok(()));
        }
        match self.send.send_data(Bytes::new(), true) {
            Ok(()) => {
                self.sent_end = true;
                Poll::Ready(Ok(()))
            }
            Err(_) => match self.send_error(cx) {
                // The peer does not read any more, so there is nobody to tell.
                e if e.kind() == io::ErrorKind::BrokenPipe => {
                    self.sent_end = true;
                    Poll::Ready(Ok(()))
                }
                e => Poll::Ready(Err(e)),
            },
        }
    }
}

impl TakeBytes for Tunnel {
    fn poll_take(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<io::Result<usize>> {
        let room = ready!(self.poll_room(cx, bytes.len()))?;
        self.send(cx, bytes.split_to(room))
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if !self.sent_end {
            self.send.send_reset(Reason::CANCEL);
        }
        // Else h2 sends what is queued, and the reset after it where the peer has not ended.
    }
}
