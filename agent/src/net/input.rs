//! What was read of a connection and not looked at yet. `gateway::http::http1` keeps one per connection and side.
//!
//! A read lands in the thread's scratch memory and is copied, so that a connection which is quiet holds none. Where bytes come in bulk they
//! are read to where they stay, and as many TLS records at a time as have arrived: each piece costs the way to the other side once, and
//! small ones are gathered there by another copy.

use std::{
    io,
    ops::{Deref, DerefMut},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

use super::scratch::{self, SIZE};

/// A read that brought so much is followed by one in bulk: a full TLS record.
const BULK: usize = 16 << 10;

/// Bytes, and what came after them.
#[derive(Debug, Default)]
pub struct Input {
    bytes: BytesMut,
    in_bulk: bool,
    /// How the connection broke, after the bytes.
    broken: Option<io::Error>,
}

impl Input {
    /// Nothing was read that somebody has to look at.
    pub fn is_spent(&self) -> bool {
        self.bytes.is_empty() && self.broken.is_none()
    }

    /// The bytes alone: a connection that has broken says so again, or has ended.
    pub fn into_bytes(self) -> BytesMut {
        self.bytes
    }

    /// Reads more, once something has come: how many bytes, none at the end of the stream.
    pub fn poll_fill<IO: AsyncRead + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Err(error));
        }
        let read = if self.in_bulk {
            self.poll_bulk(io, cx)
        } else {
            scratch::poll_read(io, cx, |bytes| {
                self.bytes.extend_from_slice(bytes);
                bytes.len()
            })
        };
        if read.is_pending() && self.bytes.is_empty() {
            *self = Self::default();
        }
        let read = ready!(read)?;
        self.in_bulk = read >= BULK;
        Poll::Ready(Ok(read))
    }

    /// What comes after the first read is kept for the next call; an end is found again.
    fn poll_bulk<IO: AsyncRead + Unpin>(
        &mut self,
        io: &mut IO,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.bytes.reserve(SIZE);
        let mut read = ready!(poll_read_buf(Pin::new(&mut *io), cx, &mut self.bytes))?;
        let mut last = read;
        while last > 0 && read + BULK <= SIZE {
            last = match poll_read_buf(Pin::new(&mut *io), cx, &mut self.bytes) {
                Poll::Ready(Ok(more)) => more,
                Poll::Ready(Err(error)) => {
                    self.broken = Some(error);
                    0
                }
                Poll::Pending => 0,
            };
            read += last;
        }
        Poll::Ready(Ok(read))
    }
}

impl Deref for Input {
    type Target = BytesMut;

    fn deref(&self) -> &BytesMut {
        &self.bytes
    }
}

impl DerefMut for Input {
    fn deref_mut(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, future::poll_fn, io::ErrorKind};

    use tokio::io::{AsyncWriteExt as _, ReadBuf};

    use super::*;

    /// Reads of a full record each, then a break, which is told once.
    struct Breaking(VecDeque<io::Result<Vec<u8>>>);

    impl AsyncRead for Breaking {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.0
                .pop_front()
                .map_or(Poll::Ready(Ok(())), |read| Poll::Ready(read.map(|record| buf.put_slice(&record))))
        }
    }

    async fn fill<IO: AsyncRead + Unpin>(input: &mut Input, io: &mut IO) -> io::Result<usize> {
        poll_fn(|cx| input.poll_fill(io, cx)).await
    }

    #[tokio::test]
    async fn in_bulk_it_takes_what_has_come_and_loses_nothing() {
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let (mut writer, mut reader) = tokio::io::duplex(SIZE);
        let (mut input, mut received, mut most) = (Input::default(), Vec::new(), 0);
        let writing = async {
            writer.write_all(&sent).await.unwrap();
            drop(writer);
        };
        let reading = async {
            loop {
                let read = fill(&mut input, &mut reader).await.unwrap();
                assert_eq!(read, input.len());
                most = most.max(read);
                received.extend_from_slice(&input.split());
                if read == 0 {
                    break;
                }
            }
        };
        tokio::join!(writing, reading);
        assert!(received == sent && input.is_spent());
        assert_eq!(most, SIZE);
    }

    #[tokio::test]
    async fn a_break_comes_after_the_bytes_before_it() {
        let broken = io::Error::from(ErrorKind::ConnectionReset);
        let mut io = Breaking([Ok(vec![1; BULK]), Ok(vec![2; BULK]), Ok(vec![3; BULK]), Err(broken)].into());
        let mut input = Input::default();
        assert_eq!(fill(&mut input, &mut io).await.unwrap(), BULK);
        assert_eq!(fill(&mut input, &mut io).await.unwrap(), 2 * BULK);
        input.clear();
        assert!(!input.is_spent());
        assert_eq!(fill(&mut input, &mut io).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn while_nothing_comes_it_holds_nothing() {
        let (mut writer, mut reader) = tokio::io::duplex(SIZE);
        let mut input = Input::default();
        for _ in 0..2 {
            writer.write_all(&vec![0; BULK]).await.unwrap();
            fill(&mut input, &mut reader).await.unwrap();
            drop(input.split());
        }
        let pending = poll_fn(|cx| Poll::Ready(input.poll_fill(&mut reader, cx).is_pending()));
        assert!(pending.await);
        assert_eq!(input.capacity(), 0);
    }
}
