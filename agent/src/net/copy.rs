//! Copies bytes both ways between two streams until both directions have ended.
//!
//! A half-close is passed on and the other direction goes on. An idle pair holds no buffer: bytes are read into
//! scratch memory of the thread and written on at once; only what the other side does not take is kept.

mod direction;

use std::{
    future::{Future as _, poll_fn},
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::Poll,
    time::Duration,
};

use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite},
    time::Instant,
};

use direction::{Copied, Direction, Given, Lent, Move};

use super::take::TakeBytes;
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
    carry(left, right, count, idle, Direction::<Copied>::default(), Direction::<Copied>::default()).await
}

/// The same where the right stream is a tunnel: what it has received it lends out, which is written without a copy, and what the left one
/// does not take stays where it is; and it takes over what is read of the left one.
pub async fn bidirectional_tunnel<L, R>(
    left: &mut L,
    right: &mut R,
    count: &impl Count,
    idle: Duration,
) -> Result<(), Error>
where
    L: AsyncRead + AsyncWrite + Unpin,
    R: AsyncBufRead + TakeBytes + Unpin,
{
    carry(left, right, count, idle, Direction::<Given>::default(), Direction::<Lent>::default()).await
}

async fn carry<L, R, F, B>(
    left: &mut L,
    right: &mut R,
    count: &impl Count,
    idle: Duration,
    mut forth: Direction<F>,
    mut back: Direction<B>,
) -> Result<(), Error>
where
    F: Move<L, R>,
    B: Move<R, L>,
    L: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite + Unpin,
{
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
            near_blocks: back.by.is_blocked(),
            far_blocks: forth.by.is_blocked(),
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

#[cfg(test)]
mod tests;
