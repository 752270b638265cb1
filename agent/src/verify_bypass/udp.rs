//! Datagrams: sent, connected, dressed up as QUIC or DNS, and UDP-Lite.

use std::{
    io,
    net::{SocketAddr, SocketAddrV4},
};

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    local,
    vector::{Attempt, Expected::Blocked, Probe, Vector, attempt},
};

pub(super) const VECTORS: &[Vector] = &[
    Vector { name: "udp sendto", expected: Blocked, attempt: send_to },
    Vector { name: "udp connected", expected: Blocked, attempt: connected },
    Vector { name: "udp ipv6", expected: Blocked, attempt: v6 },
    Vector { name: "quic (udp 443)", expected: Blocked, attempt: quic },
    Vector { name: "dns to a foreign resolver", expected: Blocked, attempt: dns },
    Vector { name: "udp source route", expected: Blocked, attempt: source_routed },
    Vector { name: "udp-lite", expected: Blocked, attempt: lite },
];

/// Sends one datagram to the target, at `port` where that is not the target's own.
fn send(probe: &Probe<'_>, port: Option<u16>, payload: &[u8]) -> Attempt {
    let target = match probe.target() {
        Ok(target) => target,
        Err(attempt) => return attempt,
    };
    let to = SocketAddrV4::new(*target.ip(), port.unwrap_or(target.port()));
    match Socket::new(Domain::IPV4, Type::DGRAM, None) {
        Ok(socket) => sent(socket.send_to(payload, &to.into())),
        Err(error) => Attempt::refused(&error),
    }
}

/// Whether the kernel took a packet. No way to the target at all is no refusal of anybody's.
pub(super) fn sent(result: io::Result<usize>) -> Attempt {
    match result {
        Ok(_) => Attempt::sent(),
        Err(error) => Attempt::refused(&error),
    }
}

fn send_to(probe: &Probe<'_>) -> Attempt {
    send(probe, None, probe.token.as_bytes())
}

fn connected(probe: &Probe<'_>) -> Attempt {
    let target = match probe.target() {
        Ok(target) => SocketAddr::from(target),
        Err(attempt) => return attempt,
    };
    let attempt = || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.connect(&target.into())?;
        socket.send(probe.token.as_bytes())
    };
    sent(attempt())
}

/// By way of the target: the address in the header is the first hop's.
fn source_routed(probe: &Probe<'_>) -> Attempt {
    attempt(|| {
        let target = probe.target()?;
        let steps = || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            local::route_by(&socket, *target.ip())?;
            socket.connect(&target.into())?;
            socket.send(probe.token.as_bytes())
        };
        Ok(sent(steps()))
    })
}

fn v6(probe: &Probe<'_>) -> Attempt {
    let Some(target) = probe.context.target_v6 else { return Attempt::not_available("no IPv6 --target") };
    let attempt = || {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
        socket.send_to(probe.token.as_bytes(), &SocketAddr::from(target).into())
    };
    sent(attempt())
}

/// The first byte and the version of a QUIC Initial (RFC 9000, 17.2.2); 1,200 bytes, as one has to have.
fn quic(probe: &Probe<'_>) -> Attempt {
    let mut packet = vec![0xc3, 0, 0, 0, 1];
    packet.extend(probe.token.as_bytes());
    packet.resize(1200, 0);
    send(probe, Some(443), &packet)
}

/// A question for the address of `TOKEN.invalid` (RFC 1035, 4.1).
fn dns(probe: &Probe<'_>) -> Attempt {
    send(probe, Some(53), &question(&probe.token))
}

fn question(label: &str) -> Vec<u8> {
    // Id, recursion desired, one question.
    let mut packet = vec![0x15, 0x08, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [label, "invalid"] {
        packet.push(label.len() as u8);
        packet.extend(label.as_bytes());
    }
    // Root, type A, class IN.
    packet.extend([0, 0, 1, 0, 1]);
    packet
}

fn lite(probe: &Probe<'_>) -> Attempt {
    let target = match probe.target() {
        Ok(target) => SocketAddr::from(target),
        Err(attempt) => return attempt,
    };
    match Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::from(libc::IPPROTO_UDPLITE))) {
        Ok(socket) => sent(socket.send_to(probe.token.as_bytes(), &target.into())),
        Err(_) if !local::has_protocol("UDP-Lite") => Attempt::not_available("not in this kernel"),
        Err(error) => Attempt::refused(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::question;

    #[test]
    fn a_question_is_well_formed() {
        let packet = question("abc");
        assert_eq!(&packet[12..], b"\x03abc\x07invalid\0\0\x01\0\x01");
    }
}
