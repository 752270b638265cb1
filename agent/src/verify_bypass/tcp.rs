//! Every way to open a TCP connection, and what may be set on a socket before.

mod io_uring;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::AsRawFd as _,
};

use nix::libc;
use socket2::{Domain, MsgHdr, Protocol, SockAddr, Socket};

use super::{
    PATIENCE,
    answer::{self, exchange},
    local,
    vector::{
        self, Attempt,
        Expected::{Blocked, Captured},
        Probe, Vector,
    },
};

pub(super) const VECTORS: &[Vector] = &[
    Vector { name: "tcp connect", expected: Captured, attempt: plain },
    Vector { name: "tcp non-blocking connect", expected: Captured, attempt: non_blocking },
    Vector { name: "tcp fast open", expected: Captured, attempt: fast_open },
    Vector { name: "tcp io_uring connect", expected: Captured, attempt: io_uring::attempt },
    Vector { name: "mptcp", expected: Blocked, attempt: multipath },
    Vector { name: "tcp reconnect after AF_UNSPEC", expected: Captured, attempt: reconnect },
    Vector { name: "tcp v4-mapped", expected: Captured, attempt: v4_mapped },
    Vector { name: "tcp ipv6", expected: Captured, attempt: v6 },
    Vector { name: "tcp SO_MARK", expected: Captured, attempt: marked },
    Vector { name: "tcp SO_BINDTODEVICE", expected: Blocked, attempt: bound_to_device },
    Vector { name: "tcp source route", expected: Blocked, attempt: source_routed },
    Vector { name: "tcp repair", expected: Captured, attempt: repaired },
    Vector { name: "tcp metadata address", expected: Captured, attempt: metadata },
];

/// Connects by `connect`, then asks the witness.
fn attempt(
    domain: Domain,
    protocol: Option<Protocol>,
    probe: &Probe<'_>,
    to: SocketAddr,
    connect: impl FnOnce(&Socket, &SockAddr) -> io::Result<()>,
) -> Attempt {
    match local::stream(domain, protocol) {
        Ok((socket, port)) => connected(socket, port, probe, to, connect),
        Err(error) => Attempt::not_available(format_args!("no socket: {error}")),
    }
}

/// The same with a socket that is there.
pub(super) fn connected(
    socket: Socket,
    port: u16,
    probe: &Probe<'_>,
    to: SocketAddr,
    connect: impl FnOnce(&Socket, &SockAddr) -> io::Result<()>,
) -> Attempt {
    match connect(&socket, &to.into()) {
        Ok(()) => exchange(socket.into(), port, &probe.token, to),
        Err(error) => Attempt::refused(&error).at_port(port),
    }
}

pub(super) fn plain(probe: &Probe<'_>) -> Attempt {
    let target = match probe.target() {
        Ok(target) => target.into(),
        Err(attempt) => return attempt,
    };
    attempt(Domain::IPV4, None, probe, target, Socket::connect)
}

fn non_blocking(probe: &Probe<'_>) -> Attempt {
    let target = match probe.target() {
        Ok(target) => target.into(),
        Err(attempt) => return attempt,
    };
    // connect() with O_NONBLOCK, then poll().
    attempt(Domain::IPV4, None, probe, target, |socket, to| socket.connect_timeout(to, PATIENCE))
}

fn fast_open(probe: &Probe<'_>) -> Attempt {
    let target = match probe.target() {
        Ok(target) => SocketAddr::from(target),
        Err(attempt) => return attempt,
    };
    let (socket, port) = match local::stream(Domain::IPV4, None) {
        Ok(made) => made,
        Err(error) => return Attempt::not_available(format_args!("no socket: {error}")),
    };
    let request = answer::request(&format!("{}{}", super::witness::PATH, probe.token), target);
    let to = SockAddr::from(target);
    let buffers = [io::IoSlice::new(request.as_bytes())];
    // Connects without a call of connect().
    match socket.sendmsg(&MsgHdr::new().with_addr(&to).with_buffers(&buffers), libc::MSG_FASTOPEN) {
        Ok(_) => answer::answered(&socket.into(), port),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            Attempt::not_available("net.ipv4.tcp_fastopen is off for clients")
        }
        Err(error) => Attempt::refused(&error).at_port(port),
    }
}

fn multipath(probe: &Probe<'_>) -> Attempt {
    let target = match probe.target() {
        Ok(target) => target.into(),
        Err(attempt) => return attempt,
    };
    match local::stream(Domain::IPV4, Some(Protocol::from(libc::IPPROTO_MPTCP))) {
        Ok((socket, port)) => connected(socket, port, probe, target, Socket::connect),
        Err(_) if !local::has_protocol("MPTCP") => Attempt::not_available("not in this kernel"),
        // Off by sysctl says ENOPROTOOPT.
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            Attempt::not_available("net.mptcp.enabled is off")
        }
        Err(error) => Attempt::refused(&error),
    }
}

/// A socket that was connected to loopback, which is passed, is disconnected and sent elsewhere.
fn reconnect(probe: &Probe<'_>) -> Attempt {
    let target = match probe.target() {
        Ok(target) => target.into(),
        Err(attempt) => return attempt,
    };
    let server = match TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|server| server.local_addr().map(|at| (server, at)))
    {
        Ok(server) => server,
        Err(error) => return Attempt::not_available(format_args!("nothing listens on loopback: {error}")),
    };
    attempt(Domain::IPV4, None, probe, target, |socket, to| {
        socket.connect(&server.1.into())?;
        disconnect(socket)?;
        socket.connect(to)
    })
}

/// connect() to AF_UNSPEC.
fn disconnect(socket: &Socket) -> io::Result<()> {
    // SAFETY: an all-zero sockaddr is a valid value, of family AF_UNSPEC, and lives during the call.
    let result = unsafe {
        let nowhere: libc::sockaddr = std::mem::zeroed();
        libc::connect(socket.as_raw_fd(), &raw const nowhere, size_of::<libc::sockaddr>() as libc::socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn v4_mapped(probe: &Probe<'_>) -> Attempt {
    let target = match probe.target() {
        Ok(target) => target,
        Err(attempt) => return attempt,
    };
    let mapped = SocketAddr::from((target.ip().to_ipv6_mapped(), target.port()));
    attempt(Domain::IPV6, None, probe, mapped, Socket::connect)
}

fn v6(probe: &Probe<'_>) -> Attempt {
    match probe.context.target_v6 {
        Some(target) => attempt(Domain::IPV6, None, probe, target.into(), Socket::connect),
        None => Attempt::not_available("no IPv6 --target"),
    }
}

fn marked(probe: &Probe<'_>) -> Attempt {
    /// Any mark: what matters is that policy routing could send marked packets elsewhere.
    const MARK: u32 = 0x15008;
    let target = match probe.target() {
        Ok(target) => target.into(),
        Err(attempt) => return attempt,
    };
    match local::stream(Domain::IPV4, None) {
        Ok((socket, port)) => match socket.set_mark(MARK) {
            Ok(()) => connected(socket, port, probe, target, Socket::connect),
            Err(error) => Attempt::not_available(format_args!("SO_MARK: {error}")),
        },
        Err(error) => Attempt::not_available(format_args!("no socket: {error}")),
    }
}

fn bound_to_device(probe: &Probe<'_>) -> Attempt {
    let target = match probe.target() {
        Ok(target) => target,
        Err(attempt) => return attempt,
    };
    let Some(route) = local::route(*target.ip()) else {
        return Attempt::not_available("no device leads to the target");
    };
    match local::stream(Domain::IPV4, None) {
        Ok((socket, port)) => match socket.bind_device(Some(route.device.as_bytes())) {
            Ok(()) => connected(socket, port, probe, target.into(), Socket::connect),
            Err(error) => Attempt::refused(&error),
        },
        Err(error) => Attempt::not_available(format_args!("no socket: {error}")),
    }
}

/// By way of the target: the address in the header is the first hop's, not that of connect().
fn source_routed(probe: &Probe<'_>) -> Attempt {
    vector::attempt(|| {
        let target = probe.target()?;
        let (socket, port) = local::stream(Domain::IPV4, None)
            .map_err(|error| Attempt::not_available(format_args!("no socket: {error}")))?;
        local::route_by(&socket, *target.ip())
            .map_err(|error| Attempt::not_available(format_args!("IP_OPTIONS: {error}")))?;
        Ok(connected(socket, port, probe, target.into(), Socket::connect))
    })
}

/// A connection that is made without a single packet, as checkpoint and restore does it.
fn repaired(probe: &Probe<'_>) -> Attempt {
    /// TCP_REPAIR_OFF_NO_WP: without the packet that asks whether the other side is there, which answers with a reset.
    const OFF: i32 = -1;
    vector::attempt(|| {
        let target = probe.target()?.into();
        local::needs(local::NET_ADMIN)?;
        Ok(attempt(Domain::IPV4, None, probe, target, |socket, to| {
            local::set(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, &1_i32)?;
            socket.connect(to)?;
            local::set(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, &OFF)
        }))
    })
}

/// Where clouds hand out credentials.
fn metadata(probe: &Probe<'_>) -> Attempt {
    if !probe.context.metadata {
        return Attempt::not_available("only with --metadata: it is no address of yours");
    }
    let to = SocketAddr::from(([169, 254, 169, 254], 80));
    attempt(Domain::IPV4, None, probe, to, |socket, to| socket.connect_timeout(to, PATIENCE))
}
