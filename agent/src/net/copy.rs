//! Copies bytes both ways between two streams until both directions have ended.
//!
//! A half-close is passed on and the other direction goes on. An idle pair holds no buffer: bytes are read into
//! scratch memory of the thread and written on at once; only what the other side does not take is kept.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::scratch::Scratch;
use crate::flow::{FlowHandle, Ledger, Step, Wait};

/// Which of the two streams broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first.
    Left,
    /// The second.
    Right,
}

/// Why copying stopped before both directions ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A read or write failed.
    #[error("{1}")]
    Io(Side, #[source] io::Error),
    /// No byte moved for that long.
    #[error("no byte moved for {} s", .0.as_secs())]
    Idle(Duration),
}

/// Told about every piece that was read, bytes from left and bytes from right, and about the time in which nothing moved. Left is the end
/// towards the workload, the near one.
pub trait Count {
    /// `bytes` came from the left.
    fn add_left(&self, bytes: u64);
    /// `bytes` came from the right.
    fn add_right(&self, bytes: u64);
    /// Whether it wants to know of times.
    fn wants_times(&self) -> bool {
        false
    }
    /// This was waited for, for so long.
    fn waited(&self, _: Wait, _: Duration) {}
    /// From `since` on this is waited for.
    fn waits(&self, _: Wait, _since: Instant) {}
}

/// Counts for whoever has no flow to count into.
#[derive(Debug, Default)]
pub struct Tally {
    left: AtomicU64,
    right: AtomicU64,
}

impl Tally {
    /// Bytes so far, from left and from right.
    pub fn bytes(&self) -> (u64, u64) {
        (self.left.load(Relaxed), self.right.load(Relaxed))
    }
}

impl Count for Tally {
    fn add_left(&self, bytes: u64) {
        self.left.fetch_add(bytes, Relaxed);
    }

    fn add_right(&self, bytes: u64) {
        self.right.fetch_add(bytes, Relaxed);
    }
}

impl Count for FlowHandle {
    fn add_left(&self, bytes: u64) {
        self.add_sent(bytes);
    }

    fn add_right(&self, bytes: u64) {
        self.add_received(bytes);
    }

    fn wants_times(&self) -> bool {
        self.is_recorded()
    }

    fn waited(&self, wait: Wait, time: Duration) {
        FlowHandle::waited(self, wait, time);
    }

    fn waits(&self, wait: Wait, since: Instant) {
        FlowHandle::waits(self, wait, since);
    }
}

/// Copies until both directions have ended, one stream breaks, or nothing moves for `idle`.
pub async fn bidirectional<L, R>(
    left: &mut L,
    right: &mut R,
    count: &impl Count,
    idle: Duration,
) -> Result<(), Error>
where
    L: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite + Unpin,
{
    carry(left, right, count, idle, Copied::default()).await
}

/// The same where the right stream lends out what it has received: that is written without a copy, and what the left one does not take
/// stays where it is.
pub async fn bidirectional_lent<L, R>(
    left: &mut L,
    right: &mut R,
    count: &impl Count,
    idle: Duration,
) -> Result<(), Error>
where
    L: AsyncRead + AsyncWrite + Unpin,
    R: AsyncBufRead + AsyncWrite + Unpin,
{
    carry(left, right, count, idle, Lent).await
}

async fn carry<L, R>(
    left: &mut L,
    right: &mut R,
    count: &impl Count,
    idle: Duration,
    from_right: impl Move<R, L>,
) -> Result<(), Error>
where
    L: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite + Unpin,
{
    let (mut forth, mut back) = (Direction::new(Copied::default()), Direction::new(from_right));
    // The timer is only moved when it fires: an active pair pays for reading the clock, not for the timer wheel.
    let mut last = Instant::now();
    let (mut ledger, times) = (Ledger::new(last), count.wants_times());
    count.waits(ledger.ongoing(), last);
    let mut timer = std::pin::pin!(tokio::time::sleep_until(last + idle));
    poll_fn(|cx| {
        let before = (forth.moved, back.moved);
        let from_left = forth.poll(cx, left, right, |n| count.add_left(n));
        if let Poll::Ready(Err((reading, error))) = from_left {
            return Poll::Ready(Err(Error::Io(if reading { Side::Left } else { Side::Right }, error)));
        }
        let from_right = back.poll(cx, right, left, |n| count.add_right(n));
        if let Poll::Ready(Err((reading, error))) = from_right {
            return Poll::Ready(Err(Error::Io(if reading { Side::Right } else { Side::Left }, error)));
        }
        if from_left.is_ready() && from_right.is_ready() {
            return Poll::Ready(Ok(()));
        }
        let step = Step {
            near_spoke: before.0 != forth.moved,
            far_spoke: before.1 != back.moved,
            near_blocks: back.blocked,
            far_blocks: forth.blocked,
        };
        let moved = step.near_spoke || step.far_spoke;
        if moved || times && !ledger.stands(step.near_blocks, step.far_blocks) {
            // The one look at the clock that an active pair pays for.
            let now = Instant::now();
            if times {
                ledger.step(now, step, |wait, time| count.waited(wait, time));
                count.waits(ledger.ongoing(), now);
            }
            if moved {
                last = now;
            }
        }
        while timer.as_mut().poll(cx).is_ready() {
            if last.elapsed() >= idle {
                return Poll::Ready(Err(Error::Idle(idle)));
            }
            timer.as_mut().reset(last + idle);
        }
        Poll::Pending
    })
    .await
}

/// A failure, and whether it was the reading side's.
type Failure = (bool, io::Error);

/// Moves bytes from a reader to a writer.
trait Move<R, W> {
    /// Moves some. None: the reader has ended.
    fn poll_some(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        moved: &mut Moved<'_>,
    ) -> Poll<Result<Option<()>, Failure>>;
}

/// What a direction is told as bytes move.
struct Moved<'a> {
    /// So many were read.
    read: &'a mut dyn FnMut(u64),
    /// There are bytes that the writer does not take.
    blocked: &'a mut bool,
}

/// By way of scratch memory.
#[derive(Default)]
struct Copied {
    /// Read, and not taken by the writer yet; empty and without memory most of the time.
    kept: Vec<u8>,
    start: usize,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Move<R, W> for Copied {
    fn poll_some(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        moved: &mut Moved<'_>,
    ) -> Poll<Result<Option<()>, Failure>> {
        while self.start < self.kept.len() {
            self.start += ready!(write(cx, writer, &self.kept[self.start..]))?;
        }
        (self.kept, self.start, *moved.blocked) = (Vec::new(), 0, false);
        let mut scratch = Scratch::take();
        let mut buffer = ReadBuf::new(&mut scratch);
        ready!(Pin::new(reader).poll_read(cx, &mut buffer)).map_err(|e| (true, e))?;
        let bytes = buffer.filled();
        if bytes.is_empty() {
            return Poll::Ready(Ok(None));
        }
        (moved.read)(bytes.len() as u64);
        let mut written = 0;
        while written < bytes.len() {
            match write(cx, writer, &bytes[written..]) {
                Poll::Ready(result) => written += result?,
                Poll::Pending => {
                    (self.kept, *moved.blocked) = (bytes[written..].to_vec(), true);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(Some(())))
    }
}

/// From where the reader has them.
struct Lent;

impl<R: AsyncBufRead + Unpin, W: AsyncWrite + Unpin> Move<R, W> for Lent {
    fn poll_some(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        moved: &mut Moved<'_>,
    ) -> Poll<Result<Option<()>, Failure>> {
        let bytes = ready!(Pin::new(&mut *reader).poll_fill_buf(cx)).map_err(|e| (true, e))?;
        if bytes.is_empty() {
            return Poll::Ready(Ok(None));
        }
        let written = write(cx, writer, bytes);
        *moved.blocked = written.is_pending();
        let written = ready!(written)?;
        Pin::new(reader).consume(written);
        (moved.read)(written as u64);
        Poll::Ready(Ok(Some(())))
    }
}

struct Direction<M> {
    by: M,
    /// There are bytes that the other side does not take.
    blocked: bool,
    ended: bool,
    done: bool,
    unflushed: bool,
    moved: u64,
}

impl<M> Direction<M> {
    fn new(by: M) -> Self {
        Self { by, blocked: false, ended: false, done: false, unflushed: false, moved: 0 }
    }

    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        count: impl Fn(u64),
    ) -> Poll<Result<(), Failure>>
    where
        M: Move<R, W>,
        W: AsyncWrite + Unpin,
    {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        while !self.ended {
            let Self { by, blocked, unflushed, moved, .. } = self;
            let mut read = |bytes| {
                *moved += bytes;
                *unflushed = true;
                count(bytes);
            };
            match by.poll_some(cx, reader, writer, &mut Moved { read: &mut read, blocked }) {
                Poll::Ready(result) => self.ended = result?.is_none(),
                Poll::Pending => {
                    if self.unflushed && Pin::new(writer).poll_flush(cx).map_err(|e| (false, e))?.is_ready() {
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        ready!(Pin::new(writer).poll_shutdown(cx)).map_err(|e| (false, e))?;
        self.done = true;
        Poll::Ready(Ok(()))
    }
}

fn write<W: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    writer: &mut W,
    bytes: &[u8],
) -> Poll<Result<usize, Failure>> {
    match ready!(Pin::new(writer).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err((false, io::ErrorKind::WriteZero.into()))),
        result => Poll::Ready(result.map_err(|e| (false, e))),
    }
}

#[cfg(test)]
mod tests;
