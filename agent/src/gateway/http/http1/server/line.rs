//! The reading side of a workload's connection, shared by the server and the body of the request it serves.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite as _};

use super::{Chunked, Decoder, Framing};
use crate::{
    gateway::http::{body::Error, http1::Piece},
    net::{input::Input, take::TakeBytes},
};

const GO_ON: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A connection, whatever is behind it.
pub(in crate::gateway) trait Stream: AsyncRead + TakeBytes + Unpin + Send {}

impl<IO: AsyncRead + TakeBytes + Unpin + Send> Stream for IO {}

pub(super) struct Line {
    pub(super) io: Box<dyn Stream>,
    /// Read, and not looked at.
    pub(super) input: Input,
    /// The body of the current request.
    pub(super) decoder: Decoder,
    /// The workload has ended its side.
    pub(super) ended: bool,
    /// What it has not been sent yet of the word to go on.
    go_on: &'static [u8],
    /// The server, which watches the connection once the body is over.
    server: Option<Waker>,
}

impl Line {
    pub(super) fn new(io: Box<dyn Stream>) -> Self {
        let decoder = Decoder::new(Framing::None, Chunked::strict);
        Self { io, input: Input::default(), decoder, ended: false, go_on: &[], server: None }
    }

    /// A head was read; its body follows.
    pub(super) fn begin(&mut self, framing: Framing, expects_continue: bool) {
        self.decoder = Decoder::new(framing, Chunked::strict);
        // Whoever has sent some of the body already does not wait for it (RFC 9110 §10.1.1).
        self.go_on = if expects_continue && self.input.is_empty() { GO_ON } else { &[] };
    }

    pub(super) fn wake_when_over(&mut self, waker: &Waker) {
        if !self.server.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.server = Some(waker.clone());
        }
    }

    /// Between two requests it holds no memory.
    pub(super) fn release_memory(&mut self) {
        self.input = Input::default();
    }

    /// Reads once; `ended` tells of the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let read = ready!(self.input.poll_fill(&mut self.io, cx))?;
        self.ended = read == 0;
        Poll::Ready(Ok(()))
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, io::Error>>> {
        loop {
            let malformed = |why| io::Error::new(io::ErrorKind::InvalidData, why);
            let piece = self.decoder.next(&mut self.input).map_err(malformed)?;
            let is_over = self.decoder.is_over();
            if is_over && let Some(server) = self.server.take() {
                server.wake();
            }
            if piece.is_some() || is_over {
                return Poll::Ready(piece.map(Ok));
            }
            if self.ended {
                return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
            }
            while !self.go_on.is_empty() {
                let sent = ready!(Pin::new(&mut self.io).poll_write(cx, self.go_on))?;
                self.go_on = &self.go_on[sent..];
                if self.go_on.is_empty() {
                    ready!(Pin::new(&mut self.io).poll_flush(cx))?;
                }
            }
            ready!(self.poll_fill(cx))?;
        }
    }
}

/// The body of a workload's request, read from its connection as it is asked for.
pub(in crate::gateway) struct Incoming(Arc<Mutex<Line>>);

impl Incoming {
    pub(super) fn new(line: Arc<Mutex<Line>>) -> Self {
        Self(line)
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let piece = ready!(self.0.lock().poll_body(cx));
        Poll::Ready(piece.map(|piece| match piece {
            Ok(Piece::Data(data)) => Ok(Frame::data(data)),
            Ok(Piece::Trailers(fields)) => Ok(Frame::trailers(fields)),
            Err(e) => Err(e.into()),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().decoder.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().decoder.exact().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
