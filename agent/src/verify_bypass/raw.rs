//! Below the transports: ping sockets, raw sockets, SCTP.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
};

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    local, packet, tcp,
    udp::sent,
    vector::{Attempt, Expected::Blocked, Probe, Vector, attempt},
};

pub(super) const VECTORS: &[Vector] = &[
    Vector { name: "icmp ping socket", expected: Blocked, attempt: ping },
    Vector { name: "raw icmp", expected: Blocked, attempt: raw_icmp },
    Vector { name: "raw ip protocol 253", expected: Blocked, attempt: raw_ip },
    Vector { name: "raw packet, header included", expected: Blocked, attempt: header_included },
    Vector { name: "sctp", expected: Blocked, attempt: sctp },
];

fn ping(probe: &Probe<'_>) -> Attempt {
    let target = match probe.target() {
        Ok(target) => target,
        Err(attempt) => return attempt,
    };
    // The kernel's own switch answers EACCES, and so might a program of ours.
    let range = fs::read_to_string("/proc/sys/net/ipv4/ping_group_range").unwrap_or_default();
    let limits: Vec<u32> = range.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    if !matches!(limits[..], [low, high] if (low..=high).contains(&nix::unistd::getegid().as_raw())) {
        return Attempt::not_available("net.ipv4.ping_group_range leaves our group out");
    }
    echo(Type::DGRAM, probe, *target.ip())
}

fn raw_icmp(probe: &Probe<'_>) -> Attempt {
    attempt(|| {
        let target = probe.target()?;
        local::needs(local::NET_RAW)?;
        Ok(echo(Type::RAW, probe, *target.ip()))
    })
}

/// Sends an echo request with the token.
fn echo(kind: Type, probe: &Probe<'_>, to: Ipv4Addr) -> Attempt {
    match Socket::new(Domain::IPV4, kind, Some(Protocol::ICMPV4)) {
        Ok(socket) => {
            let request = packet::echo_request(probe.token.as_bytes());
            sent(socket.send_to(&request, &SocketAddrV4::new(to, 0).into()))
        }
        Err(error) => Attempt::refused(&error),
    }
}

/// A protocol number for experiments (RFC 3692).
fn raw_ip(probe: &Probe<'_>) -> Attempt {
    attempt(|| {
        let target = probe.target()?;
        local::needs(local::NET_RAW)?;
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(253)))
            .map_err(|error| Attempt::refused(&error))?;
        Ok(sent(socket.send_to(probe.token.as_bytes(), &SocketAddrV4::new(*target.ip(), 0).into())))
    })
}

/// A whole packet, header included, by a raw socket.
fn header_included(probe: &Probe<'_>) -> Attempt {
    attempt(|| {
        let target = probe.target()?;
        local::needs(local::NET_RAW)?;
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))
            .map_err(|error| Attempt::refused(&error))?;
        // The kernel fills in its own address.
        let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 15_008);
        let packet = packet::datagram(from, target, probe.token.as_bytes());
        Ok(sent(socket.send_to(&packet, &target.into())))
    })
}

fn sctp(probe: &Probe<'_>) -> Attempt {
    let target = match probe.target() {
        Ok(target) => SocketAddr::from(target),
        Err(attempt) => return attempt,
    };
    match local::stream(Domain::IPV4, Some(Protocol::from(libc::IPPROTO_SCTP))) {
        Ok((socket, port)) => tcp::connected(socket, port, probe, target, Socket::connect),
        Err(_) if !local::has_protocol("SCTP") => Attempt::not_available("not in this kernel"),
        Err(error) => Attempt::refused(&error),
    }
}
