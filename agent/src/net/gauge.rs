//! Kernel figures of a socket (TCP_INFO), for whoever holds a [`Gauge`] of it, for as long as they like.
//!
//! `node` and `gateway` wrap the TCP connections of flows in [`Gauged`], and `flow` reads the gauges: when somebody asks and when a
//! flow ends, never as bytes move. After the connection has ended a gauge says what it said last.

use std::{
    io::{self, IoSlice},
    mem::size_of_val,
    ops::Deref,
    os::fd::{AsRawFd, RawFd},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use nix::libc;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::flow::TcpFigures;

/// Reads the figures of one connection. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gauge(Arc<Mutex<State>>);

#[derive(Debug)]
enum State {
    /// The descriptor is open as long as this says so: see [`Gauged`].
    Open(RawFd),
    Closed(Option<TcpFigures>),
}

impl Gauge {
    /// The figures as they are now, or were at the end; none where the kernel does not say.
    pub fn read(&self) -> Option<TcpFigures> {
        match &*self.0.lock() {
            State::Open(socket) => figures(*socket).ok(),
            State::Closed(last) => *last,
        }
    }

    fn close(&self) {
        let mut state = self.0.lock();
        if let State::Open(socket) = *state {
            // Nobody reads what nobody else holds.
            let is_held = Arc::strong_count(&self.0) > 1;
            *state = State::Closed(is_held.then(|| figures(socket).ok()).flatten());
        }
    }
}

/// Closes the gauge before what it is about.
#[derive(Debug)]
struct Closing(Gauge);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// A connection with a gauge. The gauge is closed first, whichever way this goes: fields are dropped in this order.
#[derive(Debug)]
pub struct Gauged<IO> {
    closing: Closing,
    io: IO,
}

impl<IO: AsRawFd> Gauged<IO> {
    /// Wraps a TCP connection.
    pub fn new(io: IO) -> Self {
        let gauge = Gauge(Arc::new(Mutex::new(State::Open(io.as_raw_fd()))));
        Self { closing: Closing(gauge), io }
    }
}

impl<IO> Gauged<IO> {
    /// Its gauge.
    pub fn gauge(&self) -> &Gauge {
        &self.closing.0
    }

    /// The connection alone; its gauge stays as it is now.
    pub fn into_inner(self) -> IO {
        let Self { closing, io } = self;
        drop(closing);
        io
    }
}

impl<IO> Deref for Gauged<IO> {
    type Target = IO;

    fn deref(&self) -> &IO {
        &self.io
    }
}

/// `struct tcp_info` up to `tcpi_sndbuf_limited` (include/uapi/linux/tcp.h); Linux has all of it since 4.10.
type TcpInfo = [u8; 192];

pub(super) fn figures(socket: RawFd) -> io::Result<TcpFigures> {
    let mut info: TcpInfo = [0; 192];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `info`. The descriptor is a number to it.
    let result = unsafe {
        libc::getsockopt(socket, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(parse(&info))
}

fn parse(info: &TcpInfo) -> TcpFigures {
    let bytes = |at: usize| std::array::from_fn::<u8, 8, _>(|i| info[at + i]);
    let long = |at| u64::from_ne_bytes(bytes(at));
    let word = |at: usize| u32::from_ne_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
    TcpFigures {
        rtt_us: word(68),
        rtt_variation_us: word(72),
        retransmits: word(100),
        bytes_acked: long(120),
        bytes_received: long(128),
        segments_sent: word(136),
        segments_received: word(140),
        // The kernel's word for "not measured".
        min_rtt_us: Some(word(148)).filter(|rtt| *rtt != u32::MAX).unwrap_or(0),
        busy_us: long(168),
        peer_window_limited_us: long(176),
        send_buffer_limited_us: long(184),
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Gauged<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Gauged<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::Gauged;

    #[tokio::test]
    async fn a_gauge_outlives_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = Gauged::new(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        let mut server = listener.accept().await.unwrap().0;
        let gauge = client.gauge().clone();
        client.write_all(b"four").await.unwrap();
        server.read_exact(&mut [0; 4]).await.unwrap();
        server.write_all(b"answer").await.unwrap();
        client.read_exact(&mut [0; 6]).await.unwrap();
        let open = gauge.read().unwrap();
        // The SYN counts as a byte that was acknowledged.
        assert_eq!((open.bytes_received, open.bytes_acked), (6, 5));
        assert!(open.rtt_us > 0 && open.segments_sent > 1, "{open:?}");
        drop(client);
        assert_eq!(server.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(gauge.read().unwrap().bytes_received, 6);
    }

    #[tokio::test]
    async fn one_that_was_taken_out_is_not_asked_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Gauged::new(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        let gauge = client.gauge().clone();
        let stream = client.into_inner();
        let before = gauge.read();
        stream.set_zero_linger().unwrap();
        drop(stream);
        assert!(before.is_some());
        assert_eq!(gauge.read(), before);
    }
}
