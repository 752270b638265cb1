//! Writers that can take bytes over instead of copying them: tunnels, and what is wrapped around one. Everybody else copies.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use tokio::io::AsyncWrite;

/// A writer that is given bytes.
pub trait TakeBytes: AsyncWrite {
    /// Writes the first of them, which are gone from `bytes` afterwards: how many. Everything else is as with `poll_write`.
    fn poll_take(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.as_mut().poll_write(cx, bytes))?;
        bytes.advance(written);
        Poll::Ready(Ok(written))
    }
}

impl<IO: TakeBytes + Unpin + ?Sized> TakeBytes for Box<IO> {
    fn poll_take(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &mut Bytes,
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut **self).poll_take(cx, bytes)
    }
}

impl TakeBytes for tokio::io::Empty {}

#[cfg(test)]
impl TakeBytes for tokio::io::DuplexStream {}
