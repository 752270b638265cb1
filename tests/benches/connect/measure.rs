//! The measuring itself: each connection timed alone, so that what interrupts one does not touch the median.

use std::{
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use anyhow::Result;
use egret_tests::quartiles::median;
use nix::{
    libc,
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt::Linger,
    },
};

/// Connections per state and round.
const CONNECTIONS: usize = 60;
/// UDP connects per reading, and readings per state and round.
const DATAGRAM_CONNECTS: u32 = 500;
const READINGS: usize = 5;

/// Nanoseconds, medians of one state in one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// TCP to an address that is not this machine's.
    pub(crate) remote: Tcp,
    /// TCP to loopback.
    pub(crate) loopback: Tcp,
    /// `connect()` of UDP.
    pub(crate) udp: f64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Tcp {
    /// `connect()` alone.
    pub(crate) connect: f64,
    /// With `socket()`, `accept()`, whatever belongs to it, and `close()` on both sides.
    pub(crate) whole: f64,
}

/// Connects to `address` again and again; each arrives at `listener`, where `accepted` takes what belongs to it.
pub(crate) fn tcp(
    address: SocketAddr,
    listener: &TcpListener,
    accepted: impl Fn(&TcpStream) -> Result<()>,
) -> Result<Tcp> {
    let to = SockaddrStorage::from(address);
    let (mut connects, mut wholes) = (Vec::new(), Vec::new());
    // The first ones find nothing in the caches, and no neighbour's address.
    for number in 0..CONNECTIONS + CONNECTIONS / 10 {
        let begin = Instant::now();
        let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let made = Instant::now();
        connect(client.as_raw_fd(), &to)?;
        let connected = made.elapsed();
        let (stream, _) = listener.accept()?;
        accepted(&stream)?;
        // Without TIME_WAIT: it would slow down whoever looks for a source port later.
        setsockopt(&client, Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
        drop(client);
        drop(stream);
        if number >= CONNECTIONS / 10 {
            connects.push(nanoseconds(connected));
            wholes.push(nanoseconds(begin.elapsed()));
        }
    }
    Ok(Tcp { connect: median(&mut connects), whole: median(&mut wholes) })
}

/// Connects one UDP socket again and again: nothing but the system call, the route and the hook.
pub(crate) fn udp(address: SocketAddr) -> Result<f64> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut readings = Vec::new();
    for _ in 0..READINGS {
        let begin = Instant::now();
        for _ in 0..DATAGRAM_CONNECTS {
            socket.connect(address)?;
        }
        readings.push(nanoseconds(begin.elapsed()) / f64::from(DATAGRAM_CONNECTS));
    }
    Ok(median(&mut readings))
}

fn nanoseconds(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}
