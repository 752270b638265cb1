//! One of the two directions of a pair of streams.
//!
//! `copy` polls it. What differs is how bytes are moved: by way of scratch memory, given to the writer, or from where the reader has them.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::net::{
    scratch::{self, SIZE, Scratch},
    take::TakeBytes,
};

/// A failure, and whether it was the reading side's.
pub(super) type Failure = (bool, io::Error);

/// Moves bytes from a reader to a writer.
pub(super) trait Move<R, W> {
    /// Moves some: how many bytes were read, none at the end of the reader.
    fn poll_some(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<Result<u64, Failure>>;

    /// Whether there are bytes that the writer does not take.
    fn is_blocked(&self) -> bool;
}

/// By way of scratch memory.
#[derive(Default)]
pub(super) struct Copied {
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
    ) -> Poll<Result<u64, Failure>> {
        while self.start < self.kept.len() {
            self.start += ready!(write(cx, writer, &self.kept[self.start..]))?;
        }
        (self.kept, self.start) = (Vec::new(), 0);
        let mut scratch = Scratch::take();
        let mut buffer = ReadBuf::new(&mut scratch);
        ready!(Pin::new(reader).poll_read(cx, &mut buffer)).map_err(|e| (true, e))?;
        let bytes = buffer.filled();
        let mut written = 0;
        while written < bytes.len() {
            match write(cx, writer, &bytes[written..]) {
                Poll::Ready(result) => written += result?,
                Poll::Pending => {
                    self.kept = bytes[written..].to_vec();
                    break;
                }
            }
        }
        Poll::Ready(Ok(bytes.len() as u64))
    }

    fn is_blocked(&self) -> bool {
        !self.kept.is_empty()
    }
}

/// Given to a writer that takes bytes over. Where they come in bulk they are read to where they stay.
#[derive(Default)]
pub(super) struct Given {
    /// Read, and not taken by the writer yet.
    rest: Bytes,
    in_bulk: bool,
}

/// A read that brought so much is followed by one in bulk.
const BULK: usize = SIZE / 2;

impl<R: AsyncRead + Unpin, W: TakeBytes + Unpin> Move<R, W> for Given {
    fn poll_some(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<Result<u64, Failure>> {
        while !self.rest.is_empty() {
            ready!(give(cx, writer, &mut self.rest))?;
        }
        self.rest = if self.in_bulk {
            let mut bytes = BytesMut::with_capacity(SIZE);
            ready!(poll_read_buf(Pin::new(reader), cx, &mut bytes)).map_err(|e| (true, e))?;
            bytes.freeze()
        } else {
            ready!(scratch::poll_read(reader, cx, Bytes::copy_from_slice)).map_err(|e| (true, e))?
        };
        let read = self.rest.len();
        self.in_bulk = read >= BULK;
        while !self.rest.is_empty() {
            match give(cx, writer, &mut self.rest) {
                Poll::Ready(given) => given?,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(read as u64))
    }

    fn is_blocked(&self) -> bool {
        !self.rest.is_empty()
    }
}

/// From where the reader has them.
#[derive(Default)]
pub(super) struct Lent {
    blocked: bool,
}

impl<R: AsyncBufRead + Unpin, W: AsyncWrite + Unpin> Move<R, W> for Lent {
    fn poll_some(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<Result<u64, Failure>> {
        let bytes = ready!(Pin::new(&mut *reader).poll_fill_buf(cx)).map_err(|e| (true, e))?;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let written = write(cx, writer, bytes);
        self.blocked = written.is_pending();
        let written = ready!(written)?;
        Pin::new(reader).consume(written);
        Poll::Ready(Ok(written as u64))
    }

    fn is_blocked(&self) -> bool {
        self.blocked
    }
}

#[derive(Default)]
pub(super) struct Direction<M> {
    pub(super) by: M,
    ended: bool,
    done: bool,
    unflushed: bool,
    /// Bytes so far.
    pub(super) moved: u64,
}

impl<M> Direction<M> {
    /// Goes on until the reader has ended and the writer knows, or one of them must be waited for.
    pub(super) fn poll<R, W>(
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
            // What was kept may be written before the next read, whatever that finds.
            self.unflushed |= self.by.is_blocked();
            match self.by.poll_some(cx, reader, writer) {
                Poll::Ready(Ok(0)) => self.ended = true,
                Poll::Ready(Ok(bytes)) => {
                    self.moved += bytes;
                    self.unflushed = true;
                    count(bytes);
                }
                Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
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

fn give<W: TakeBytes + Unpin>(
    cx: &mut Context<'_>,
    writer: &mut W,
    bytes: &mut Bytes,
) -> Poll<Result<(), Failure>> {
    match ready!(Pin::new(writer).poll_take(cx, bytes)) {
        Ok(0) => Poll::Ready(Err((false, io::ErrorKind::WriteZero.into()))),
        result => Poll::Ready(result.map(drop).map_err(|e| (false, e))),
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
