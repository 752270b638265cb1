//! Memory for one read, lent by the thread: what lands in it is used or copied before the next read, so that a connection on which
//! nothing moves holds none. Only `read_ahead` keeps it for longer, until its reader has taken what was read.

use std::{
    cell::RefCell,
    io, mem,
    ops::{Deref, DerefMut},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

/// Bytes of one. A TLS record is 16 KiB; four of them per system call is where larger reads stopped to pay.
pub const SIZE: usize = 64 << 10;

/// How many a thread keeps that nobody has: one per layer that reads by way of another. More come back where many readers were slow.
const KEPT: usize = 4;

thread_local! {
    /// Those that nobody has.
    static FREE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// [`SIZE`] bytes of what was there before, given back to the thread when dropped.
#[derive(Debug)]
pub struct Scratch(Vec<u8>);

impl Scratch {
    /// Borrows one.
    pub fn take() -> Self {
        Self(FREE.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SIZE]))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        FREE.with_borrow_mut(|free| {
            if free.len() < KEPT {
                free.push(mem::take(&mut self.0));
            }
        });
    }
}

impl Deref for Scratch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// One read of `io`; `take` gets what it brought, nothing at the end of the stream.
pub fn poll_read<IO: AsyncRead + Unpin, T>(
    io: &mut IO,
    cx: &mut Context<'_>,
    take: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<T>> {
    let mut scratch = Scratch::take();
    let mut read = ReadBuf::new(&mut scratch);
    ready!(Pin::new(io).poll_read(cx, &mut read))?;
    Poll::Ready(Ok(take(read.filled())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_had_at_a_time_is_not_kept() {
        let many: Vec<_> = (0..KEPT * 3).map(|_| Scratch::take()).collect();
        drop(many);
        assert_eq!(FREE.with_borrow(Vec::len), KEPT);
    }
}
