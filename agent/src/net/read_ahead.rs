//! Reads a socket in large pieces for a reader that asks for small ones.
//!
//! rustls reads at most 4 KiB per call: four system calls per full TLS record. Both ends of a tunnel, and the gateway towards an
//! upstream, wrap the socket in [`ReadAhead`] before TLS. Writes pass through.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::scratch::{SIZE, Scratch};

/// An I/O object that is read in pieces of up to 64 KiB. Holds no memory while nothing arrives.
#[derive(Debug)]
pub struct ReadAhead<IO> {
    io: IO,
    ahead: Option<Ahead>,
}

/// What was read and did not fit: the memory it was read into, until it is handed out.
#[derive(Debug)]
struct Ahead {
    memory: Scratch,
    taken: usize,
    end: usize,
}

impl<IO> ReadAhead<IO> {
    /// Wraps `io`.
    pub fn new(io: IO) -> Self {
        Self { io, ahead: None }
    }

    /// The object below.
    pub fn get_ref(&self) -> &IO {
        &self.io
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for ReadAhead<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut ahead = match this.ahead.take() {
            Some(ahead) => ahead,
            None if buf.remaining() >= SIZE => return Pin::new(&mut this.io).poll_read(cx, buf),
            None => {
                let mut memory = Scratch::take();
                let mut read = ReadBuf::new(&mut memory);
                ready!(Pin::new(&mut this.io).poll_read(cx, &mut read))?;
                let end = read.filled().len();
                Ahead { memory, taken: 0, end }
            }
        };
        let n = buf.remaining().min(ahead.end - ahead.taken);
        buf.put_slice(&ahead.memory[ahead.taken..ahead.taken + n]);
        ahead.taken += n;
        // Nearly always its reader takes all of it at once.
        this.ahead = (ahead.taken < ahead.end).then_some(ahead);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for ReadAhead<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn nothing_is_lost_between_pieces_and_nothing_is_held_at_the_end() {
        let sent: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let (mut writer, reader) = tokio::io::duplex(SIZE * 4);
        writer.write_all(&sent).await.unwrap();
        drop(writer);
        let mut ahead = ReadAhead::new(reader);
        let (mut received, mut piece, mut was_held) = (Vec::new(), [0; 4_096], false);
        loop {
            let n = ahead.read(&mut piece).await.unwrap();
            if n == 0 {
                break;
            }
            received.extend_from_slice(&piece[..n]);
            was_held |= ahead.ahead.is_some();
        }
        assert!(received == sent && was_held && ahead.ahead.is_none());
    }
}
