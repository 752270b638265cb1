//! The strict HTTP/1 gate in front of hyper: nothing reaches hyper whose framing two implementations could read
//! differently.
//!
//! hyper accepts bare LF, drops a `Content-Length` beside `Transfer-Encoding` and folds repeated ones before anybody can
//! see them. [`Guard`] wraps the connection, holds each request head until it is complete and valid, and follows the
//! body's framing so that it knows where the next head begins. A request that breaks the rules is replaced by one that
//! the service recognises through [`GuardHandle::next_request`] and refuses; nothing after it is ever read.

mod chunked;
mod head;

use std::{
    future::Future as _,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::{Buf as _, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use chunked::Chunked;
use head::{Body, MAX_HEAD};
pub(in crate::gateway) use head::{Violation, known_method};

/// What hyper gets to see in place of a request that breaks the rules.
const SUBSTITUTE: &[u8] = b"GET / HTTP/1.1\r\nHost: refused.invalid\r\nConnection: close\r\n\r\n";
const READ: usize = 16 * 1024;

/// How long the guard waits for the workload.
#[derive(Clone, Copy, Debug)]
pub(in crate::gateway) struct Patience {
    /// For the first byte of the next request on a kept-alive connection.
    pub(in crate::gateway) idle: Duration,
    /// From the first to the last byte of a head.
    pub(in crate::gateway) head: Duration,
    /// For the next byte of a body.
    pub(in crate::gateway) body: Duration,
    /// For a workload that has ended its side to take some of its answer: it may wait for it, or be gone.
    pub(in crate::gateway) half_closed: Duration,
}

/// The service's end of a [`Guard`].
#[derive(Clone, Debug, Default)]
pub(in crate::gateway) struct GuardHandle {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Heads passed on by the guard, and requests seen by the service: hyper keeps their order.
    passed: u64,
    served: u64,
    violation: Option<(u64, Violation)>,
    upgrade: Upgrade,
    /// Requests whose answer is not over.
    serving: usize,
    waker: Option<Waker>,
}

/// A request on its way, until the last byte of its answer.
#[derive(Debug)]
pub(in crate::gateway) struct Serving(Arc<Mutex<Shared>>);

impl Drop for Serving {
    fn drop(&mut self) {
        let mut shared = self.0.lock();
        shared.serving -= 1;
        if let Some(waker) = shared.waker.take() {
            waker.wake();
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Upgrade {
    #[default]
    Undecided,
    Accepted,
    Declined,
}

impl GuardHandle {
    /// Must be called once per request, in order: fails for the request that stands for one that broke the rules.
    pub(in crate::gateway) fn next_request(&self) -> Result<Serving, Violation> {
        let mut shared = self.shared.lock();
        let index = shared.served;
        shared.served += 1;
        match &shared.violation {
            Some((at, violation)) if *at == index => Err(violation.clone()),
            _ => {
                shared.serving += 1;
                Ok(Serving(Arc::clone(&self.shared)))
            }
        }
    }

    /// Decides about the upgrade the current request asked for. Until then no byte after its head is read: none can
    /// reach the upstream before it said 101, and none is taken for a request.
    pub(in crate::gateway) fn decide_upgrade(&self, accepted: bool) {
        let mut shared = self.shared.lock();
        shared.upgrade = if accepted { Upgrade::Accepted } else { Upgrade::Declined };
        if let Some(waker) = shared.waker.take() {
            waker.wake();
        }
    }
}

/// The gate.
pub(in crate::gateway) struct Guard<IO> {
    io: IO,
    shared: Arc<Mutex<Shared>>,
    patience: Patience,
    /// Read; the first `approved` bytes may go to hyper.
    input: BytesMut,
    approved: usize,
    /// Bytes of `input` that were searched for the end of the head already.
    searched: usize,
    state: State,
    /// Whether an upgrade waits for its decision once the body is over.
    upgrading: bool,
    /// The workload has ended its side between two requests.
    half_closed: bool,
    /// Something was written, or was to be, and not flushed since.
    unflushed: bool,
    timer: Pin<Box<Sleep>>,
    armed: Armed,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Armed {
    No,
    Idle,
    Head,
    Body,
    HalfClosed,
}

enum State {
    Head,
    Length(u64),
    Chunked(Chunked),
    AwaitUpgrade,
    Raw,
    Refused,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Guard<IO> {
    /// A gate in front of `io`, and the handle for the service behind it.
    pub(in crate::gateway) fn new(io: IO, patience: Patience) -> (Self, GuardHandle) {
        let handle = GuardHandle::default();
        let guard = Self {
            io,
            shared: Arc::clone(&handle.shared),
            patience,
            input: BytesMut::new(),
            approved: 0,
            searched: 0,
            state: State::Head,
            upgrading: false,
            half_closed: false,
            unflushed: false,
            timer: Box::pin(tokio::time::sleep(patience.idle)),
            armed: Armed::No,
        };
        (guard, handle)
    }

    /// Looks at what was read. True: some of it is approved; false: more must be read.
    fn advance(&mut self) -> io::Result<bool> {
        loop {
            match &mut self.state {
                State::Head => {
                    let found = match head::find_end(&self.input, &mut self.searched) {
                        Ok(Some(end)) => head::check(&self.input[..end]).map(|head| (end, head)),
                        Ok(None) => return Ok(false),
                        Err(violation) => Err(violation),
                    };
                    match found {
                        Ok((end, head)) => {
                            self.approved = end;
                            self.searched = 0;
                            self.armed = Armed::No;
                            self.upgrading = head.upgrade;
                            let mut shared = self.shared.lock();
                            shared.passed += 1;
                            shared.upgrade = Upgrade::Undecided;
                            drop(shared);
                            self.state = match head.body {
                                Body::None => self.after_body(),
                                Body::Length(length) => State::Length(length),
                                Body::Chunked => State::Chunked(Chunked::default()),
                            };
                        }
                        Err(violation) => self.refuse(violation),
                    }
                    return Ok(true);
                }
                State::Length(left) => {
                    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(self.input.len());
                    if length == 0 {
                        return Ok(false);
                    }
                    self.approved = length;
                    *left -= length as u64;
                    if *left == 0 {
                        self.state = self.after_body();
                    }
                    return Ok(true);
                }
                State::Chunked(chunked) => {
                    if self.input.is_empty() {
                        return Ok(false);
                    }
                    let (length, done) = chunked
                        .scan(&self.input)
                        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
                    self.approved = length;
                    if done {
                        self.state = self.after_body();
                    }
                    return Ok(true);
                }
                State::AwaitUpgrade => match self.shared.lock().upgrade {
                    Upgrade::Undecided => return Ok(false),
                    Upgrade::Accepted => self.state = State::Raw,
                    Upgrade::Declined => self.state = State::Head,
                },
                State::Raw => {
                    self.approved = self.input.len();
                    return Ok(self.approved > 0);
                }
                State::Refused => return Ok(false),
            }
        }
    }

    fn after_body(&self) -> State {
        if self.upgrading { State::AwaitUpgrade } else { State::Head }
    }

    fn refuse(&mut self, violation: Violation) {
        let mut shared = self.shared.lock();
        shared.violation = Some((shared.passed, violation));
        drop(shared);
        self.input = BytesMut::from(SUBSTITUTE);
        self.approved = SUBSTITUTE.len();
        self.state = State::Refused;
        self.armed = Armed::No;
    }

    /// Waits no longer than the state allows. Ready: the time is over.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Armed> {
        let (kind, patience) = match self.state {
            _ if self.half_closed => (Armed::HalfClosed, self.patience.half_closed),
            State::Head if self.input.is_empty() => (Armed::Idle, self.patience.idle),
            State::Head => (Armed::Head, self.patience.head),
            State::Length(_) | State::Chunked(_) => (Armed::Body, self.patience.body),
            State::AwaitUpgrade | State::Raw | State::Refused => return Poll::Pending,
        };
        if self.armed != kind {
            self.armed = kind;
            self.timer.as_mut().reset(Instant::now() + patience);
        }
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(kind)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<IO> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.approved > 0 {
                let length = this.approved.min(buf.remaining());
                buf.put_slice(&this.input[..length]);
                this.input.advance(length);
                this.approved -= length;
                return Poll::Ready(Ok(()));
            }
            if matches!(this.state, State::Raw) && this.input.is_empty() {
                return Pin::new(&mut this.io).poll_read(cx, buf);
            }
            if this.advance()? {
                continue;
            }
            match this.state {
                // The answer to the refused request carries `Connection: close`; hyper ends the connection after it.
                State::Refused => return Poll::Pending,
                State::AwaitUpgrade => {
                    let mut shared = this.shared.lock();
                    if shared.upgrade == Upgrade::Undecided {
                        shared.waker = Some(cx.waker().clone());
                        return Poll::Pending;
                    }
                    continue;
                }
                _ => {}
            }
            if this.half_closed {
                return this.poll_end(cx);
            }
            match this.poll_fill(cx) {
                Poll::Ready(Ok(0)) if matches!(this.state, State::Head) && this.input.is_empty() => {
                    this.half_closed = true;
                }
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(if this.input.is_empty() {
                        Ok(())
                    } else {
                        Err(io::ErrorKind::UnexpectedEof.into())
                    });
                }
                Poll::Ready(Ok(_)) => {
                    if this.armed != Armed::Head {
                        this.armed = Armed::No;
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => match ready!(this.poll_patience(cx)) {
                    Armed::Head => this.refuse(Violation::slow()),
                    Armed::Body => {
                        return Poll::Ready(Err(io::Error::new(
                            io::ErrorKind::TimedOut,
                            "the workload stopped sending its request body",
                        )));
                    }
                    Armed::No | Armed::Idle | Armed::HalfClosed => return Poll::Ready(Ok(())),
                },
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Guard<IO> {
    /// The end of the workload's side. hyper would take it for the end of the connection, so it is told when the answer is
    /// over, or the workload does not take it.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.shared.lock();
        if shared.serving > 0 || self.unflushed {
            shared.waker = Some(cx.waker().clone());
            drop(shared);
            ready!(self.poll_patience(cx));
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once. No memory is held while nothing comes: the bytes land on the stack first.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // A head that is not complete at its limit was refused before this is asked again.
        debug_assert!(self.input.len() <= MAX_HEAD + READ, "bounded by the head limit");
        let mut scratch = [std::mem::MaybeUninit::uninit(); READ];
        let mut buffer = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buffer))?;
        self.input.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl<IO> Guard<IO> {
    /// The workload takes its answer: its patience starts anew.
    fn wrote(&mut self) {
        if self.half_closed {
            self.armed = Armed::No;
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Guard<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.unflushed = true;
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, bytes));
        self.wrote();
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.io).poll_flush(cx));
        if std::mem::take(&mut self.unflushed) && self.half_closed {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.unflushed = true;
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices));
        self.wrote();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;
