//! One tunnel as a byte stream.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The bytes of one CONNECT stream, with half-close both ways: `poll_shutdown` sends END_STREAM, a read of 0 bytes is the
/// peer's, and dropping an unfinished tunnel resets the stream (RST_STREAM CANCEL), which reads as `ConnectionReset`.
#[derive(Debug)]
pub struct Tunnel {
    _private: (),
}

impl AsyncRead for Tunnel {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        unimplemented!()
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        unimplemented!()
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        unimplemented!()
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        unimplemented!()
    }
}
