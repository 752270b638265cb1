//! The write buffer between h2 and TLS that turns h2's many small writes into few large records.
//!
//! h2 writes every DATA frame of 256 bytes or more on its own, and flushes before the next: one TLS record and one system
//! call per frame. [`Gather`] takes every write up to [`CAPACITY`] and answers a flush at once; `driver` calls
//! [`Drain::poll_drain`] after each poll of the connection, which is when the bytes really leave.
//!
//! Nothing can hang: whenever bytes stay behind, `poll_drain` has registered the task that will call it again.

use std::{
    io::{self, IoSlice},
    iter::once,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::flood::FrameMeter;

/// Bytes that wait at most; more makes h2 wait.
const CAPACITY: usize = 128 << 10;

/// From so many bytes on a write is not gathered: the copy costs more than the system call.
const LARGE: usize = 32 << 10;

/// What an idle connection may keep allocated.
const IDLE_CAPACITY: usize = 4 << 10;

#[derive(Debug)]
struct Shared<IO> {
    io: IO,
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were written already.
    written: usize,
    /// Bytes were handed to `io` since it was last flushed.
    unflushed: bool,
    /// Counts the reads that brought something.
    reads: u64,
    /// Guards against floods of control frames, on the gateway's side.
    meter: Option<FrameMeter>,
}

/// h2's end: an I/O object that gathers what is written to it.
#[derive(Debug)]
pub(super) struct Gather<IO>(Arc<Mutex<Shared<IO>>>);

/// The driver's end. Both ends live in one task, so the lock between them is never contended.
#[derive(Debug)]
pub(super) struct Drain<IO>(Arc<Mutex<Shared<IO>>>);

/// Wraps `io`. A connection with a meter ends when its peer floods it.
pub(super) fn gather<IO>(io: IO, meter: Option<FrameMeter>) -> (Gather<IO>, Drain<IO>) {
    let shared = Shared { io, buffer: Vec::new(), written: 0, unflushed: false, reads: 0, meter };
    let shared = Arc::new(Mutex::new(shared));
    (Gather(Arc::clone(&shared)), Drain(shared))
}

impl<IO: AsyncWrite + Unpin> Shared<IO> {
    /// Writes what is gathered; flushes when that is done.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.buffer.len() {
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.buffer[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.written += n,
            }
            self.unflushed = true;
        }
        self.buffer.clear();
        self.written = 0;
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what is gathered, and as much of `bufs` as is taken with it: how much of them, or none when they have to be gathered.
    fn write_through(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let gathered = self.buffer.len() - self.written;
        let taken = {
            let gathered = IoSlice::new(&self.buffer[self.written..]);
            let slices: SmallVec<[_; 4]> = once(gathered).chain(bufs.iter().copied()).collect();
            match Pin::new(&mut self.io).poll_write_vectored(cx, &slices)? {
                Poll::Ready(taken) => taken,
                Poll::Pending => return Ok(0),
            }
        };
        self.unflushed |= taken > 0;
        if taken < gathered {
            self.written += taken;
            return Ok(0);
        }
        self.buffer.clear();
        self.written = 0;
        Ok(taken - gathered)
    }

    /// Room for more bytes, made by writing when there is none.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.len() >= CAPACITY {
            ready!(self.poll_drain(cx))?;
        }
        Poll::Ready(Ok(CAPACITY - self.buffer.len()))
    }
}

impl<IO> Shared<IO> {
    fn count_sent(&mut self, bytes: usize) {
        if let Some(meter) = &mut self.meter {
            meter.sent(bytes);
        }
    }
}

impl<IO: AsyncWrite + Unpin> Drain<IO> {
    /// Really writes and flushes. `Pending` when the bytes do not fit; the task is then woken when they do.
    pub(super) fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_drain(cx)
    }

    /// Writes the rest and closes the writing side.
    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0.lock();
        ready!(shared.poll_drain(cx))?;
        Pin::new(&mut shared.io).poll_shutdown(cx)
    }
}

impl<IO> Drain<IO> {
    /// How many reads brought something: a peer that sends is alive.
    pub(super) fn reads(&self) -> u64 {
        self.0.lock().reads
    }

    /// Gives memory back; for connections that have little to do.
    pub(super) fn release_memory(&self) {
        let mut shared = self.0.lock();
        if shared.buffer.is_empty() && shared.buffer.capacity() > IDLE_CAPACITY {
            shared.buffer = Vec::new();
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Gather<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0.lock();
        let before = buf.filled().len();
        ready!(Pin::new(&mut shared.io).poll_read(cx, buf))?;
        let read = &buf.filled()[before..];
        if !read.is_empty() {
            shared.reads = shared.reads.wrapping_add(1);
        }
        if shared.meter.as_mut().is_some_and(|meter| !meter.received(read)) {
            tracing::warn!("a peer flooded its tunnel connection with HTTP/2 control frames; it is closed");
            return Poll::Ready(Err(io::Error::other("flood of HTTP/2 control frames")));
        }
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Gather<IO> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut shared = self.0.lock();
        let n = ready!(shared.poll_room(cx))?.min(buf.len());
        shared.buffer.extend_from_slice(&buf[..n]);
        shared.count_sent(n);
        Poll::Ready(Ok(n))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut shared = self.0.lock();
        if bufs.iter().map(|buf| buf.len()).sum::<usize>() >= LARGE {
            let taken = shared.write_through(cx, bufs)?;
            if taken > 0 {
                shared.count_sent(taken);
                return Poll::Ready(Ok(taken));
            }
        }
        let room = ready!(shared.poll_room(cx))?;
        let mut taken = 0;
        for buf in bufs {
            let n = buf.len().min(room - taken);
            shared.buffer.extend_from_slice(&buf[..n]);
            taken += n;
        }
        shared.count_sent(taken);
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The driver flushes after this poll of the connection.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0.lock();
        ready!(shared.poll_drain(cx))?;
        Pin::new(&mut shared.io).poll_shutdown(cx)
    }
}
