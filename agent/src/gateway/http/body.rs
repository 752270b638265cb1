//! The bodies of an exchange, watched: counted, bounded in time, and the record of the exchange closed with the last byte.

use std::{
    future::Future as _,
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::{
    sync::Notify,
    time::{Instant, Sleep},
};

use super::{
    grpc,
    headers::remove_from_trailers,
    http1::{client::Answer, server},
    upgrade::Join,
};
use crate::{
    gateway::{
        pool::{Lease, Pool},
        record::Record,
    },
    reason::{Reason, Refusal},
};

/// A body that failed.
pub(in crate::gateway) type Error = Box<dyn std::error::Error + Send + Sync>;

/// How far the workload's request has been sent.
#[derive(Debug, Default)]
pub(in crate::gateway) struct Progress {
    bytes: AtomicU64,
    finished: AtomicBool,
    notify: Notify,
}

impl Progress {
    /// Waits until the request has been sent to its end, or will not be.
    pub(in crate::gateway) async fn finished(&self) {
        let notified = self.notify.notified();
        if !self.finished.load(Relaxed) {
            notified.await;
        }
    }

    fn finish(&self) {
        if !self.finished.swap(true, Relaxed) {
            self.notify.notify_waiters();
        }
    }
}

/// A workload's request body, as it comes.
pub(in crate::gateway) enum Incoming {
    Http1(server::Incoming),
    Http2(hyper::body::Incoming),
}

impl Incoming {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self {
            Self::Http1(body) => Pin::new(body).poll_frame(cx),
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

/// An upstream's answer, as it comes.
pub(in crate::gateway) enum Answered {
    Http1(Box<Answer>),
    Http2(hyper::body::Incoming),
}

impl Answered {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self {
            Self::Http1(body) => body.poll_frame(cx),
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_over(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_over(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

/// A timer that costs nothing until somebody waits.
#[derive(Debug)]
struct Idle {
    after: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    running: bool,
}

impl Idle {
    fn new(after: Duration) -> Self {
        Self { after, timer: None, running: false }
    }

    fn stop(&mut self) {
        self.running = false;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.after)));
        if !mem::replace(&mut self.running, true) {
            timer.as_mut().reset(Instant::now() + self.after);
        }
        timer.as_mut().poll(cx)
    }
}

/// A workload's request body on its way upstream.
pub(in crate::gateway) struct RequestBody {
    inner: Incoming,
    progress: Arc<Progress>,
    idle: Idle,
}

impl RequestBody {
    /// Watches `inner`.
    pub(in crate::gateway) fn new(inner: Incoming, progress: Arc<Progress>, idle: Duration) -> Self {
        if inner.is_end_stream() {
            progress.finish();
        }
        Self { inner, progress, idle: Idle::new(idle) }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Poll::Ready(frame) = self.inner.poll_frame(cx) else {
            ready!(self.idle.poll(cx));
            return Poll::Ready(Some(Err("the workload stopped sending its request body".into())));
        };
        self.idle.stop();
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.progress.bytes.fetch_add(data.len() as u64, Relaxed);
        }
        if !matches!(frame, Some(Ok(_))) || self.inner.is_end_stream() {
            self.progress.finish();
        }
        Poll::Ready(frame.map(|frame| frame.map(clean_trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.progress.finish();
    }
}

fn clean_trailers(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            remove_from_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(frame) => frame,
    }
}

/// The answer's body on its way to the workload. Holds the record of the exchange, which is written when this is dropped.
pub(in crate::gateway) struct ResponseBody {
    inner: Inner,
    record: Option<Record>,
    progress: Arc<Progress>,
    bytes: u64,
}

enum Inner {
    Local(Option<Bytes>),
    Upstream(Box<Upstream>),
    /// Of a WebSocket: other bytes follow.
    Joined(Box<Join>),
}

/// An answer that comes from an upstream.
pub(in crate::gateway) struct Upstream {
    /// Its body.
    pub(in crate::gateway) body: Answered,
    /// What it was asked over, and where that goes afterwards.
    pub(in crate::gateway) lease: Option<(Lease, Arc<Pool>)>,
    /// When the route's timeout ends it.
    pub(in crate::gateway) deadline: Option<Pin<Box<Sleep>>>,
    idle: Idle,
    done: bool,
}

impl Upstream {
    /// An answer that may pause for `idle`.
    pub(in crate::gateway) fn new(
        body: Answered,
        lease: (Lease, Arc<Pool>),
        deadline: Option<Instant>,
        idle: Duration,
    ) -> Self {
        let deadline = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
        Self { body, lease: Some(lease), deadline, idle: Idle::new(idle), done: false }
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<&'static str> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready("the answer was not complete within the route's timeout");
        }
        ready!(self.idle.poll(cx));
        Poll::Ready("the upstream stopped sending its answer")
    }
}

impl ResponseBody {
    /// An answer of our own.
    pub(in crate::gateway) fn local(bytes: Bytes, record: Option<Record>) -> Self {
        let bytes = (!bytes.is_empty()).then_some(bytes);
        let length = bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        Self { inner: Inner::Local(bytes), record, progress: Arc::default(), bytes: length }
    }

    /// An upstream's answer.
    pub(in crate::gateway) fn upstream(upstream: Upstream, record: Record, progress: Arc<Progress>) -> Self {
        Self { inner: Inner::Upstream(Box::new(upstream)), record: Some(record), progress, bytes: 0 }
    }

    /// An agreement on a WebSocket, which has its own record.
    pub(in crate::gateway) fn joined(join: Join) -> Self {
        Self { inner: Inner::Joined(Box::new(join)), record: None, progress: Arc::default(), bytes: 0 }
    }

    /// Whether it is one of our own.
    pub(in crate::gateway) fn is_local(&self) -> bool {
        matches!(self.inner, Inner::Local(_))
    }

    /// Sends more of the request, where there is more.
    pub(in crate::gateway) fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if let Inner::Upstream(upstream) = &mut self.inner
            && let Answered::Http1(answer) = &mut upstream.body
        {
            answer.poll_upload(cx);
        }
    }

    /// Carries what follows the agreement on a WebSocket, to its end.
    pub(in crate::gateway) async fn join(mut self, downstream: server::Upgraded) {
        if let Inner::Joined(join) = mem::replace(&mut self.inner, Inner::Local(None)) {
            join.carry(downstream).await;
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let upstream = match &mut this.inner {
            Inner::Local(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Inner::Joined(_) => return Poll::Ready(None),
            Inner::Upstream(upstream) => upstream,
        };
        let failure = match upstream.body.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                upstream.idle.stop();
                match (frame.data_ref(), frame.trailers_ref(), &mut this.record) {
                    (Some(data), ..) => this.bytes += data.len() as u64,
                    (None, Some(trailers), Some(record)) => {
                        record.note(|entry| entry.grpc_status = grpc::status(trailers).or(entry.grpc_status));
                    }
                    _ => {}
                }
                return Poll::Ready(Some(Ok(clean_trailers(frame))));
            }
            Poll::Ready(None) => {
                upstream.done = true;
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error))) => {
                Refusal::new(Reason::UpstreamReset, format!("the answer broke off: {error}"))
            }
            Poll::Pending => Refusal::new(Reason::UpstreamTimeout, ready!(upstream.poll_late(cx))),
        };
        if let Some(record) = &mut this.record {
            record.failed(&failure);
            // Written now, so that the end of the body does not make it a client that went away.
            finish(record, &this.progress, this.bytes);
        }
        this.record = None;
        Poll::Ready(Some(Err(failure.into())))
    }

    fn is_end_stream(&self) -> bool {
        match &self.inner {
            Inner::Local(bytes) => bytes.is_none(),
            Inner::Upstream(upstream) => upstream.body.is_over(),
            Inner::Joined(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Inner::Local(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Inner::Upstream(upstream) => upstream.body.size_hint(),
            Inner::Joined(_) => SizeHint::with_exact(0),
        }
    }
}

fn finish(record: &mut Record, progress: &Progress, sent: u64) {
    let received = progress.bytes.load(Relaxed);
    record.note(|entry| (entry.bytes_received, entry.bytes_sent) = (received, sent));
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let Some(record) = &mut self.record else { return };
        if let Inner::Upstream(upstream) = &mut self.inner
            // Nobody asks for the end of a body that says it has ended.
            && (upstream.done || upstream.body.is_over())
        {
            record.completed();
            if let Some((lease, pool)) = upstream.lease.take()
                && let Answered::Http1(answer) = &mut upstream.body
                && let Some(connection) = answer.take_connection()
            {
                pool.give(lease, connection);
            }
        }
        finish(record, &self.progress, self.bytes);
    }
}
