//! Bytes on their way out of a connection: heads and small pieces are gathered, large ones go out as they are.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use crate::net::take::TakeBytes;

/// Pieces up to this size are copied together: a write costs more.
const SMALL: usize = 8 * 1024;
/// More is not gathered.
const FULL: usize = 16 * 1024;

/// What is still to be written.
#[derive(Debug, Default)]
pub(super) struct Out {
    front: Vec<u8>,
    written: usize,
    /// A large piece, between what was put there before it and after it.
    piece: Bytes,
    back: Vec<u8>,
    /// The connection took some of it.
    pub(super) taken: bool,
    unflushed: bool,
}

impl Out {
    /// Where the next few bytes go.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
        if self.piece.is_empty() { &mut self.front } else { &mut self.back }
    }

    /// Adds a piece; only where it is not full.
    pub(super) fn piece(&mut self, piece: Bytes) {
        debug_assert!(!self.is_full(), "written before more is added");
        if piece.len() <= SMALL {
            self.front.extend_from_slice(&piece);
        } else {
            self.piece = piece;
        }
    }

    /// Has to be written before more is added.
    pub(super) fn is_full(&self) -> bool {
        !self.piece.is_empty() || self.front.len() >= FULL
    }

    /// Everything was written, and nothing of it waits inside the connection (TLS keeps what its socket did not take).
    pub(super) fn is_done(&self) -> bool {
        self.is_empty() && !self.unflushed
    }

    fn is_empty(&self) -> bool {
        self.written == self.front.len() && self.piece.is_empty() && self.back.is_empty()
    }

    /// Writes everything, and flushes where nothing follows at once.
    pub(super) fn poll_write<IO: TakeBytes + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut IO,
        flush: bool,
    ) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            if self.written == self.front.len() {
                self.front.clear();
                self.written = 0;
            }
            if self.front.is_empty() && self.piece.is_empty() {
                std::mem::swap(&mut self.front, &mut self.back);
            }
            let n = if self.front.is_empty() {
                ready!(Pin::new(&mut *io).poll_take(cx, &mut self.piece))?
            } else {
                let n = ready!(Pin::new(&mut *io).poll_write(cx, &self.front[self.written..]))?;
                self.written += n;
                n
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            (self.taken, self.unflushed) = (true, true);
        }
        self.front.clear();
        self.written = 0;
        if flush && self.unflushed {
            ready!(Pin::new(io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Between two pieces that do not follow at once it holds no memory.
    pub(super) fn release_memory(&mut self) {
        if self.is_empty() {
            (self.front, self.back, self.written) = (Vec::new(), Vec::new(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use bytes::Bytes;
    use tokio::io::{AsyncReadExt as _, duplex};

    use super::{FULL, Out, SMALL};
    use crate::net::testing::Holding;

    #[tokio::test]
    async fn what_the_connection_holds_back_is_not_done() {
        let (ours, mut theirs) = duplex(1000);
        let (mut ours, mut out) = (Holding::new(ours), Out::default());
        // More than one write takes, so that the second one waits, and the flush after it.
        out.bytes().extend_from_slice(b"a long request");
        let mut polls = 0;
        poll_fn(|cx| {
            polls += 1;
            let written = out.poll_write(cx, &mut ours, true);
            assert_eq!(out.is_done(), written.is_ready(), "poll {polls}");
            written
        })
        .await
        .unwrap();
        assert!(polls > 1);
        theirs.read_exact(&mut [0; 14]).await.unwrap();
    }

    #[tokio::test]
    async fn everything_goes_out_in_order_whatever_the_other_side_takes_at_once() {
        for room in [1, 1000, 1 << 20] {
            let (mut ours, mut theirs) = duplex(room);
            let mut out = Out::default();
            let large = Bytes::from(vec![b'l'; SMALL + 1]);
            out.bytes().extend_from_slice(b"head ");
            out.piece(Bytes::from_static(b"small "));
            assert!(!out.is_full());
            out.piece(large.clone());
            assert!(out.is_full());
            out.bytes().extend_from_slice(b" tail");
            let writing = async {
                poll_fn(|cx| out.poll_write(cx, &mut ours, true)).await.unwrap();
                assert!(out.is_done() && out.taken && !out.is_full());
                out.bytes().extend_from_slice(&[b'x'; FULL]);
                assert!(out.is_full());
                drop(ours);
            };
            let mut got = Vec::new();
            let ((), read) = tokio::join!(writing, theirs.read_to_end(&mut got));
            read.unwrap();
            assert!(got == [b"head small ", &large[..], b" tail"].concat(), "{room}");
        }
    }
}
