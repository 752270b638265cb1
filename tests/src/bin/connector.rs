//! An application that connects: the workload of the kernel tests. It reads commands from standard input, one a line, and
//! answers each with one line: `ok` and what getpeername says, or `errno` and the number. Sockets stay open until the next
//! command, so that the other side can accept them.
//!
//! - `connect ADDRESS…`: connects one socket to each address in turn, whatever comes of the earlier ones; answers for the last.
//! - `nonblocking ADDRESS`: the same with a non-blocking socket.
//! - `device NAME ADDRESS`: the same with a socket bound to a device.
//! - `hasty TEXT ADDRESS`: connects, writes and closes at once.
//! - `fastopen TEXT ADDRESS`: connects by sending (`MSG_FASTOPEN`), without a call of `connect()`.
//! - `mptcp ADDRESS`: connects a Multipath TCP socket.
//! - `datagram ADDRESS`: connects a UDP socket.

use std::{
    io::{self, BufRead as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, connect, getpeername, sendto,
        setsockopt, socket,
        sockopt::{BindToDevice, SocketError},
    },
};

fn main() -> io::Result<()> {
    // Kept until the next command.
    let mut open: Option<OwnedFd> = None;
    for line in io::stdin().lock().lines() {
        let line = line?;
        drop(open.take());
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match run(&words) {
            Ok((text, socket)) => {
                open = socket;
                format!("ok {text}")
            }
            Err(errno) => format!("errno {}", errno as i32),
        };
        let mut output = io::stdout().lock();
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
    Ok(())
}

fn run(words: &[&str]) -> Result<(String, Option<OwnedFd>), Errno> {
    match words {
        ["connect", addresses @ ..] => stream(addresses, SockFlag::empty(), None),
        ["nonblocking", address] => stream(&[address], SockFlag::SOCK_NONBLOCK, None),
        ["device", name, address] => stream(&[address], SockFlag::empty(), Some(name)),
        ["hasty", text, address] => {
            let mut stream = TcpStream::connect(*address).map_err(errno)?;
            stream.write_all(text.as_bytes()).map_err(errno)?;
            Ok(("closed".to_owned(), None))
        }
        ["fastopen", text, address] => {
            let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?;
            let flags = MsgFlags::from_bits_retain(nix::libc::MSG_FASTOPEN);
            sendto(socket.as_raw_fd(), text.as_bytes(), &SockaddrStorage::from(parse(address)?), flags)?;
            peer(socket)
        }
        ["mptcp", address] => {
            // SAFETY: plain numbers; nix does not know the protocol.
            let number = unsafe {
                nix::libc::socket(nix::libc::AF_INET, nix::libc::SOCK_STREAM, nix::libc::IPPROTO_MPTCP)
            };
            // SAFETY: made by the call above, for nobody else.
            let socket = unsafe { OwnedFd::from_raw_fd(Errno::result(number)?) };
            connect(socket.as_raw_fd(), &SockaddrStorage::from(parse(address)?))?;
            peer(socket)
        }
        ["datagram", address] => {
            let address = parse(address)?;
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).and_then(|socket| socket.connect(address).map(|()| socket));
            let peer = socket.and_then(|socket| socket.peer_addr()).map_err(errno)?;
            Ok((peer.to_string(), None))
        }
        _ => Err(Errno::ENOSYS),
    }
}

fn stream(
    addresses: &[&str],
    flags: SockFlag,
    device: Option<&str>,
) -> Result<(String, Option<OwnedFd>), Errno> {
    let first = parse(addresses.first().ok_or(Errno::EINVAL)?)?;
    let family = if first.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Stream, flags, None)?;
    if let Some(device) = device {
        setsockopt(&socket, BindToDevice, &device.into())?;
    }
    let mut outcome = Err(Errno::EINVAL);
    for address in addresses {
        outcome = connect(socket.as_raw_fd(), &SockaddrStorage::from(parse(address)?));
    }
    if outcome == Err(Errno::EINPROGRESS) {
        outcome = finish(&socket);
    }
    outcome?;
    peer(socket)
}

/// What getpeername says, with the socket to be kept.
fn peer(socket: OwnedFd) -> Result<(String, Option<OwnedFd>), Errno> {
    let peer: SockaddrStorage = getpeername(socket.as_raw_fd())?;
    Ok((shown(&peer), Some(socket)))
}

/// Waits until a non-blocking `connect()` is done.
fn finish(socket: &OwnedFd) -> Result<(), Errno> {
    let mut poll = nix::libc::pollfd { fd: socket.as_raw_fd(), events: nix::libc::POLLOUT, revents: 0 };
    // SAFETY: one structure, which lives during the call.
    Errno::result(unsafe { nix::libc::poll(&raw mut poll, 1, 5000) })?;
    match nix::sys::socket::getsockopt(socket, SocketError)? {
        0 => Ok(()),
        number => Err(Errno::from_raw(number)),
    }
}

/// As std writes it; v4-mapped addresses stay v6.
fn shown(address: &SockaddrStorage) -> String {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()).to_string());
    let v6 = || address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into()).to_string());
    v4.or_else(v6).unwrap_or_default()
}

fn parse(text: &str) -> Result<SocketAddr, Errno> {
    text.parse().map_err(|_| Errno::EINVAL)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}
