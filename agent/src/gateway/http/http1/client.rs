//! One HTTP/1.1 connection to an upstream, driven by whoever waits for the answer.
//!
//! `pool` keeps connections between exchanges, `forward` sends over them. The request's body goes on while the answer comes; an
//! answer that comes first is not held up by it.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use ::http::{
    HeaderMap, Method, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, TRAILER},
};
use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};

use super::{
    Piece,
    answer::{self, Head},
    chunked::Chunked,
    decode::Decoder,
    encode::{self, Encoder},
    out::Out,
};
use crate::{
    gateway::{
        http::body::{Error as BodyError, RequestBody},
        originate::Stream,
    },
    net::{input::Input, rewind::Rewind, scratch},
};

/// Interim answers (100, 102, 103) that are passed over.
const MAX_INTERIM: usize = 100;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(in crate::gateway) enum Error {
    /// The request's body failed: the workload's fault.
    #[error("{0}")]
    Body(#[source] BodyError),
    /// The answer is not HTTP, or could be read in two ways.
    #[error("{0}")]
    Answer(String),
    /// The connection broke.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The connection ended.
    #[error("connection closed before message completed")]
    Ended,
}

/// A connection between two exchanges.
pub(in crate::gateway) struct Connection {
    io: Stream,
    /// Read, and not looked at.
    input: Input,
}

impl Connection {
    /// Speaks HTTP/1.1 over `io`.
    pub(in crate::gateway) fn new(io: Stream) -> Self {
        Self { io, input: Input::default() }
    }

    /// Whether it can carry another exchange: the upstream has neither closed it nor said anything that nobody asked for.
    pub(in crate::gateway) fn is_open(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.input.is_spent() && scratch::poll_read(&mut self.io, &mut cx, |_| ()).is_pending()
    }

    /// Sends a request. The error gives it back where not a byte of it was taken.
    pub(in crate::gateway) async fn send(
        self,
        request: Request<RequestBody>,
    ) -> Result<Response<Answer>, (Error, Option<Request<RequestBody>>)> {
        let (mut parts, body) = request.into_parts();
        let (exact, trailers) = (body.size_hint().exact(), parts.headers.contains_key(TRAILER));
        // One without a body whose head declares one is found out like any other that is not as long as it says.
        let framed = !body.is_end_stream() || parts.headers.contains_key(CONTENT_LENGTH);
        let encoder = framed.then(|| Encoder::new(&mut parts.headers, exact, trailers));
        let mut out = Out::default();
        encode::request(out.bytes(), &parts.method, &parts.uri, &parts.headers);
        let upload = Upload { body, encoder, out, failed: None };
        let mut exchange = Exchange { connection: self, upload, interim: 0 };
        match poll_fn(|cx| exchange.poll_head(cx, &parts.method)).await {
            Ok(Head { parts, framing, keep_alive }) => {
                let decoder = Decoder::new(framing, Chunked::padded);
                let answer = Answer { exchange: Some(exchange), decoder, keep_alive };
                Ok(Response::from_parts(parts, answer))
            }
            Err(error) => {
                let unsent = !exchange.upload.out.taken;
                Err((error, unsent.then(|| Request::from_parts(parts, exchange.upload.body))))
            }
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.input.poll_fill(&mut self.io, cx)
    }
}

/// What is left to send of a request.
struct Upload {
    body: RequestBody,
    /// Absent: the body has ended.
    encoder: Option<Encoder>,
    out: Out,
    /// Why there will be no more of it.
    failed: Option<Error>,
}

impl Upload {
    fn is_over(&self) -> bool {
        self.encoder.is_none() && self.out.is_done() && self.failed.is_none()
    }

    /// Goes on until it is over or must wait.
    fn poll(&mut self, cx: &mut Context<'_>, io: &mut Stream) -> Poll<Result<(), Error>> {
        loop {
            let mut waiting = false;
            if let Some(encoder) = &mut self.encoder
                && !self.out.is_full()
            {
                match Pin::new(&mut self.body).poll_frame(cx) {
                    Poll::Ready(None) => end(&mut self.encoder, &mut self.out, None)?,
                    Poll::Ready(Some(Err(e))) => return Poll::Ready(Err(Error::Body(e))),
                    Poll::Ready(Some(Ok(frame))) => {
                        match frame.into_data() {
                            Ok(data) => {
                                encoder.data(&mut self.out, data).map_err(|e| Error::Body(e.into()))?;
                                if self.body.is_end_stream() {
                                    end(&mut self.encoder, &mut self.out, None)?;
                                }
                            }
                            Err(frame) => {
                                end(&mut self.encoder, &mut self.out, frame.trailers_ref())?;
                            }
                        }
                        continue;
                    }
                    Poll::Pending => waiting = true,
                }
            }
            ready!(self.out.poll_write(cx, io, waiting || self.encoder.is_none()))?;
            if waiting || self.encoder.is_none() {
                self.out.release_memory();
                return if waiting { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
        }
    }
}

fn end(encoder: &mut Option<Encoder>, out: &mut Out, trailers: Option<&HeaderMap>) -> Result<(), Error> {
    match encoder.take() {
        Some(mut encoder) => encoder.end(out, trailers).map_err(|e| Error::Body(e.into())),
        None => Ok(()),
    }
}

struct Exchange {
    connection: Connection,
    upload: Upload,
    /// Interim answers so far.
    interim: usize,
}

impl Exchange {
    /// Sends what can be sent. What breaks it is told when there is no answer either: an upstream may refuse a request that it has not
    /// read, and close.
    fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if self.upload.failed.is_none()
            && !self.upload.is_over()
            && let Poll::Ready(Err(error)) = self.upload.poll(cx, &mut self.connection.io)
        {
            self.upload.failed = Some(error);
        }
    }

    fn poll_head(&mut self, cx: &mut Context<'_>, method: &Method) -> Poll<Result<Head, Error>> {
        self.poll_upload(cx);
        if let Some(error @ Error::Body(_)) =
            self.upload.failed.take_if(|error| matches!(error, Error::Body(_)))
        {
            return Poll::Ready(Err(error));
        }
        loop {
            match answer::take(&mut self.connection.input, method).map_err(Error::Answer)? {
                Some(head)
                    if head.parts.status.is_informational()
                        && head.parts.status != StatusCode::SWITCHING_PROTOCOLS =>
                {
                    self.interim += 1;
                    if self.interim > MAX_INTERIM {
                        return Poll::Ready(Err(Error::Answer("it is announced without end".to_owned())));
                    }
                    continue;
                }
                Some(head) => return Poll::Ready(Ok(head)),
                None => {}
            }
            let error = match self.connection.poll_fill(cx) {
                Poll::Ready(Ok(1..)) => continue,
                Poll::Ready(Ok(0)) => Error::Ended,
                Poll::Ready(Err(e)) => e.into(),
                Poll::Pending => return Poll::Pending,
            };
            // What broke first says more.
            return Poll::Ready(Err(self.upload.failed.take().unwrap_or(error)));
        }
    }
}

/// The body of an answer, with the connection it comes over.
pub(in crate::gateway) struct Answer {
    exchange: Option<Exchange>,
    decoder: Decoder,
    keep_alive: bool,
}

impl Answer {
    /// Sends more of the request, where there is more.
    pub(in crate::gateway) fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if let Some(exchange) = &mut self.exchange {
            exchange.poll_upload(cx);
        }
    }

    /// The connection, once the exchange is over on both sides and another one may follow.
    pub(in crate::gateway) fn take_connection(&mut self) -> Option<Connection> {
        let is_over = self.keep_alive && self.decoder.is_over();
        let exchange = self.exchange.take_if(|exchange| {
            is_over && exchange.upload.is_over() && exchange.connection.input.is_spent()
        })?;
        let Connection { io, .. } = exchange.connection;
        Some(Connection::new(io))
    }

    /// What an upgraded connection says from here on; none where its request is not over.
    pub(in crate::gateway) fn into_upgraded(self) -> Option<Rewind<Stream>> {
        let Exchange { connection: Connection { io, input }, upload, .. } = self.exchange?;
        // What is left of a request is none of the bytes that follow.
        upload.is_over().then(|| Rewind::new(input.into_bytes().freeze(), io))
    }

    /// The next piece of the body.
    pub(in crate::gateway) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(exchange) = &mut self.exchange else { return Poll::Ready(None) };
        exchange.poll_upload(cx);
        loop {
            match self.decoder.next(&mut exchange.connection.input)? {
                Some(Piece::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Piece::Trailers(fields)) => return Poll::Ready(Some(Ok(Frame::trailers(fields)))),
                None if self.decoder.is_over() => return Poll::Ready(None),
                None => {}
            }
            if ready!(exchange.connection.poll_fill(cx))? == 0 && !self.decoder.end() {
                return Poll::Ready(Some(Err(Error::Ended.into())));
            }
        }
    }

    /// The body has been read.
    pub(in crate::gateway) fn is_over(&self) -> bool {
        self.decoder.is_over()
    }

    /// How long it is.
    pub(in crate::gateway) fn size_hint(&self) -> SizeHint {
        self.decoder.exact().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
