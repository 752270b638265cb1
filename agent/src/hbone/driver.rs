//! Keeps one HTTP/2 connection going: gathered writes after every poll, and pings that find out when the peer is gone.
//!
//! `client` and `server` poll it together with their own end of h2.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use h2::{Ping, PingPong};
use tokio::{
    io::AsyncWrite,
    time::{Instant, Sleep, sleep},
};

use super::{gather::Drain, settings::Pace};

/// Notices a peer that is gone, with HTTP/2 pings. Whatever arrives after a ping counts as its answer: a pong can be stuck
/// behind megabytes of data on a slow path.
pub(super) struct Keepalive {
    pings: PingPong,
    pace: Pace,
    /// Beats since the last ping.
    beats: u32,
    timer: Pin<Box<Sleep>>,
    /// The reads counted when the ping was sent that has no answer yet.
    waiting_since: Option<u64>,
}

/// What a poll of [`Keepalive`] found.
pub(super) enum Beat {
    /// Nothing new.
    Quiet,
    /// Another beat has passed without trouble.
    Tick,
    /// The peer did not answer in time.
    Dead,
}

impl Keepalive {
    pub(super) fn new(pings: PingPong, pace: Pace) -> Self {
        Self { pings, pace, beats: 0, timer: Box::pin(sleep(pace.beat)), waiting_since: None }
    }

    /// To be called before the connection is polled, which then carries the ping.
    pub(super) fn poll<IO>(&mut self, cx: &mut Context<'_>, drain: &Drain<IO>, busy: bool) -> Beat {
        let mut beat = Beat::Quiet;
        loop {
            // Frees the slot of the ping before; only one may be on its way.
            let pong = self.pings.poll_pong(cx);
            if pong.is_ready() && self.waiting_since.take().is_some() {
                self.timer.as_mut().reset(Instant::now() + self.pace.beat);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return beat;
            }
            let reads = drain.reads();
            match self.waiting_since {
                Some(before) if before == reads => return Beat::Dead,
                Some(_) => {
                    self.waiting_since = Some(reads);
                    self.timer.as_mut().reset(Instant::now() + self.pace.timeout);
                }
                None => {
                    beat = Beat::Tick;
                    self.beats += 1;
                    let mut next = self.pace.beat;
                    if busy || self.beats >= self.pace.idle_beats {
                        self.beats = 0;
                        // A connection that ends refuses the ping, and tells its driver so itself.
                        if self.pings.send_ping(Ping::opaque()).is_ok() {
                            self.waiting_since = Some(reads);
                        }
                        next = self.pace.timeout;
                        drain.release_memory();
                    }
                    self.timer.as_mut().reset(Instant::now() + next);
                }
            }
        }
    }
}

/// One poll of a connection: `poll` does h2's work, then what it wrote is really sent.
pub(super) fn poll_driven<IO: AsyncWrite + Unpin, T>(
    cx: &mut Context<'_>,
    drain: &Drain<IO>,
    poll: impl FnOnce(&mut Context<'_>) -> Poll<Result<T, h2::Error>>,
) -> Poll<Result<T, Broken>> {
    let result = poll(cx);
    if let Poll::Ready(result) = result {
        // h2 drains when it closes; what may be left is a GOAWAY that nobody waits for.
        let _ = drain.poll_drain(cx);
        return Poll::Ready(result.map_err(Broken::Http2));
    }
    match drain.poll_drain(cx) {
        Poll::Ready(Err(e)) => Poll::Ready(Err(Broken::Io(e))),
        Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
    }
}

/// Why a connection ended early.
#[derive(Debug)]
pub(super) enum Broken {
    /// HTTP/2 says so.
    Http2(h2::Error),
    /// It could not be written to.
    Io(io::Error),
}
