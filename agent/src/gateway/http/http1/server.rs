//! One HTTP/1.1 connection of a workload: reads requests, has the service answer them, one after the other.
//!
//! Nothing reaches the service whose framing two implementations could read differently; it is told of the [`Violation`] instead, and
//! nothing after it is ever read. While an answer is on its way the workload's end is watched: one that breaks ends the exchange, one
//! that is merely half closed gets its answer.

mod line;

use std::{
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use ::http::{HeaderValue, Method, Request, Response, StatusCode, header::CONNECTION};
use hyper::body::Body as _;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite as _},
    time::{Instant, Sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    Framing,
    chunked::Chunked,
    decode::Decoder,
    encode::{self, Encoder},
    is_bodiless,
    out::Out,
    request::{self, Head, Violation, find_end},
};
use crate::{
    gateway::http::{
        body::ResponseBody,
        headers::{has_option, takes_trailers},
    },
    net::{rewind::Rewind, take::TakeBytes},
};
pub(in crate::gateway) use line::Incoming;
use line::{Line, Stream};

/// What a workload may send ahead while it waits for an answer.
const AHEAD: usize = 64 * 1024;

/// How long the server waits for the workload. Bodies have their own time.
#[derive(Clone, Copy, Debug)]
pub(in crate::gateway) struct Patience {
    /// For the first byte of the next request on a kept-alive connection.
    pub(in crate::gateway) idle: Duration,
    /// From the first to the last byte of a head.
    pub(in crate::gateway) head: Duration,
    /// For a workload that has ended its side to take some of its answer: it may wait for it, or be gone.
    pub(in crate::gateway) half_closed: Duration,
}

/// The bytes of a connection after an upgrade, those that were read already first.
pub(in crate::gateway) type Upgraded = Rewind<Box<dyn Stream>>;

/// Serves `io` until the workload is done, or after `drain` its current request is.
pub(in crate::gateway) async fn serve<IO, S, F>(
    io: IO,
    patience: Patience,
    drain: CancellationToken,
    service: S,
) where
    IO: AsyncRead + TakeBytes + Unpin + Send + 'static,
    S: Fn(Result<Request<Incoming>, Violation>) -> F,
    F: Future<Output = Response<ResponseBody>> + Send,
{
    let mut connection = Connection {
        line: Arc::new(Mutex::new(Line::new(Box::new(io)))),
        patience,
        timer: Box::pin(tokio::time::sleep(patience.idle)),
        half_closed: None,
    };
    let mut drained = std::pin::pin!(drain.cancelled());
    loop {
        let next = connection.next_head(drained.as_mut()).await;
        // Boxed: it is large, and an idle connection has none.
        match Box::pin(connection.exchange(next, &service, &drain)).await {
            After::Next => {}
            After::End => break,
            After::Upgraded(body) => return Box::pin(body.join(connection.into_upgraded())).await,
            After::Broken => return,
        }
    }
    // Closed in order; a connection that is only dropped is reset, and what the workload has not read yet with it.
    poll_fn(|cx| Pin::new(&mut connection.line.lock().io).poll_shutdown(cx)).await.ok();
}

/// What of a request decides how its answer is written.
#[derive(Clone, Copy)]
struct Asked {
    is_head: bool,
    trailers: bool,
    close: bool,
}

impl Asked {
    const REFUSED: Self = Self { is_head: false, trailers: false, close: true };

    fn of(head: &Head) -> Self {
        Self {
            is_head: head.parts.method == Method::HEAD,
            trailers: takes_trailers(&head.parts.headers),
            close: head.close,
        }
    }
}

/// What comes next from a workload.
enum Next {
    Request(Box<Head>),
    /// It broke the rules.
    Refused(Violation),
    /// Nothing more.
    End,
    /// The connection broke.
    Broken,
}

/// What comes after an answer.
enum After {
    /// The next request.
    Next,
    /// Nothing.
    End,
    /// Other bytes than HTTP.
    Upgraded(Box<ResponseBody>),
    /// The connection, or the answer, broke.
    Broken,
}

struct Connection {
    /// Shared with the body of the current request. Nearly always both are polled by one task, so it is not contended.
    line: Arc<Mutex<Line>>,
    patience: Patience,
    timer: Pin<Box<Sleep>>,
    /// When the workload, which has ended its side, last took some of its answer.
    half_closed: Option<Instant>,
}

impl Connection {
    async fn next_head(&mut self, mut drained: Pin<&mut impl Future<Output = ()>>) -> Next {
        let (since, mut searched, mut begun) = (Instant::now(), 0, None);
        let line = Arc::clone(&self.line);
        poll_fn(|cx| {
            let mut line = line.lock();
            loop {
                match find_end(&line.input, &mut searched) {
                    Ok(None) => {}
                    Ok(Some(end)) => {
                        let head = line.input.split_to(end).freeze();
                        return Poll::Ready(
                            request::parse(&head)
                                .map_or_else(Next::Refused, |head| Next::Request(Box::new(head))),
                        );
                    }
                    Err(violation) => return Poll::Ready(Next::Refused(violation)),
                }
                if line.ended {
                    return Poll::Ready(Next::End);
                }
                let idle = line.input.is_empty();
                match line.poll_fill(cx) {
                    Poll::Ready(Ok(())) => continue,
                    Poll::Ready(Err(_)) => return Poll::Ready(Next::Broken),
                    Poll::Pending if idle && drained.as_mut().poll(cx).is_ready() => {
                        return Poll::Ready(Next::End);
                    }
                    Poll::Pending => {}
                }
                return if idle {
                    line.release_memory();
                    self.poll_until(cx, since + self.patience.idle).map(|()| Next::End)
                } else {
                    let begun = *begun.get_or_insert_with(Instant::now);
                    self.poll_until(cx, begun + self.patience.head).map(|()| Next::Refused(Violation::slow()))
                };
            }
        })
        .await
    }

    /// Has a request answered.
    async fn exchange<S, F>(&mut self, next: Next, service: &S, drain: &CancellationToken) -> After
    where
        S: Fn(Result<Request<Incoming>, Violation>) -> F,
        F: Future<Output = Response<ResponseBody>> + Send,
    {
        let (answer, asked) = match next {
            Next::Request(head) => {
                let asked = Asked::of(&head);
                let Head { parts, framing, expects_continue, .. } = *head;
                self.line.lock().begin(framing, expects_continue);
                let incoming = Incoming::new(Arc::clone(&self.line));
                match self.watched(service(Ok(Request::from_parts(parts, incoming)))).await {
                    Some(answer) => (answer, asked),
                    None => return After::Broken,
                }
            }
            Next::Refused(violation) => (service(Err(violation)).await, Asked::REFUSED),
            Next::End => return After::End,
            Next::Broken => return After::Broken,
        };
        self.answer(answer, Asked { close: asked.close || drain.is_cancelled(), ..asked }).await
    }

    /// Waits for the answer, and for the workload to go. None: it is gone.
    async fn watched(
        &mut self,
        answer: impl Future<Output = Response<ResponseBody>>,
    ) -> Option<Response<ResponseBody>> {
        let mut answer = std::pin::pin!(answer);
        poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            Poll::Pending => self.poll_gone(cx).map(|()| None),
        })
        .await
    }

    /// Ready when the workload is gone, or has ended its side and takes nothing.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut line = self.line.lock();
        if !line.decoder.is_over() {
            // Whoever reads the body learns of it.
            line.wake_when_over(cx.waker());
            return Poll::Pending;
        }
        while !line.ended && line.input.len() < AHEAD {
            if ready!(line.poll_fill(cx)).is_err() {
                return Poll::Ready(());
            }
        }
        if !line.ended {
            return Poll::Pending;
        }
        drop(line);
        let since = *self.half_closed.get_or_insert_with(Instant::now);
        self.poll_until(cx, since + self.patience.half_closed)
    }

    /// Ready at `time`. The timer is moved forth only when it fires: a connection that is busy pays for a comparison.
    fn poll_until(&mut self, cx: &mut Context<'_>, time: Instant) -> Poll<()> {
        if self.timer.deadline() > time {
            self.timer.as_mut().reset(time);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if Instant::now() >= time {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(time);
        }
    }

    async fn answer(&mut self, answer: Response<ResponseBody>, asked: Asked) -> After {
        let (mut parts, mut body) = answer.into_parts();
        let is_upgrade = parts.status == StatusCode::SWITCHING_PROTOCOLS;
        // An answer of our own to a request that was not read: who sent it is told that nothing follows.
        let unread = body.is_local() && !self.rest_is_there();
        let close = !is_upgrade && (asked.close || unread || has_option(&parts.headers, b"close"));
        if close {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let bodiless = is_bodiless(parts.status, asked.is_head);
        let exact = body.size_hint().exact();
        let mut encoder = (!bodiless).then(|| Encoder::new(&mut parts.headers, exact, asked.trailers));
        let mut out = Out::default();
        encode::answer(out.bytes(), parts.status, &parts.headers);
        drop(parts);
        if poll_fn(|cx| self.poll_answer(cx, &mut out, &mut body, &mut encoder)).await.is_err() {
            return After::Broken;
        }
        if is_upgrade {
            return After::Upgraded(Box::new(body));
        }
        // Ends the exchange: its record is written, its upstream connection kept.
        drop(body);
        if !close && self.rest_is_there() { After::Next } else { After::End }
    }

    /// Writes what is left of an answer.
    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut Out,
        body: &mut ResponseBody,
        encoder: &mut Option<Encoder>,
    ) -> Poll<Result<(), Broken>> {
        loop {
            let mut waiting = false;
            if let Some(framed) = encoder
                && !out.is_full()
            {
                let done = match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(Broken)),
                    Poll::Ready(None) => Some(None),
                    Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => {
                            framed.data(out, data)?;
                            body.is_end_stream().then_some(None)
                        }
                        Err(frame) => Some(frame.into_trailers().ok()),
                    },
                    Poll::Pending => {
                        waiting = true;
                        None
                    }
                };
                if let Some(trailers) = done {
                    framed.end(out, trailers.as_ref())?;
                    *encoder = None;
                } else if !waiting {
                    continue;
                }
            }
            let written = out.poll_write(cx, &mut self.line.lock().io, encoder.is_none() || waiting)?;
            if mem::take(&mut out.taken) {
                // It takes its answer: its patience starts anew.
                self.half_closed = self.half_closed.map(|_| Instant::now());
            }
            match written {
                Poll::Ready(()) if encoder.is_none() => return Poll::Ready(Ok(())),
                Poll::Ready(()) if !waiting => {}
                _ => {
                    out.release_memory();
                    // Each direction goes on while the other waits.
                    body.poll_upload(cx);
                    ready!(self.poll_gone(cx));
                    return Poll::Ready(Err(Broken));
                }
            }
        }
    }

    /// Whether the request is over, or the rest of it is there already: then the next one follows.
    fn rest_is_there(&mut self) -> bool {
        let mut line = self.line.lock();
        let line = &mut *line;
        while !line.decoder.is_over() {
            match line.decoder.next(&mut line.input) {
                Ok(Some(_)) => {}
                Ok(None) => return line.decoder.is_over(),
                Err(_) => return false,
            }
        }
        true
    }

    fn into_upgraded(self) -> Upgraded {
        let mut line = self.line.lock();
        let io = mem::replace(&mut line.io, Box::new(tokio::io::empty()));
        Rewind::new(mem::take(&mut line.input).into_bytes().freeze(), io)
    }
}

/// The connection, or the answer, broke.
struct Broken;

impl From<encode::WrongLength> for Broken {
    fn from(_: encode::WrongLength) -> Self {
        Self
    }
}

impl From<std::io::Error> for Broken {
    fn from(_: std::io::Error) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests;
