//! Frames, handed to a device: no hook of a socket's cgroup sees them. They take CAP_NET_RAW.

mod xdp;

use nix::libc;
use socket2::{Domain, Socket, Type};

use super::{
    link::{self, ETH_P_IP, Link},
    local, packet,
    vector::{Attempt, Expected::Blocked, Probe, Vector, attempt},
};

pub(super) const VECTORS: &[Vector] = &[
    Vector { name: "af_packet", expected: Blocked, attempt: plain },
    Vector { name: "af_packet past the queues", expected: Blocked, attempt: past_the_queues },
    Vector { name: "af_xdp", expected: Blocked, attempt: xdp::send },
];

/// `include/uapi/linux/if_packet.h`.
const PACKET_QDISC_BYPASS: libc::c_int = 20;

fn plain(probe: &Probe<'_>) -> Attempt {
    attempt(|| {
        let link = link(probe)?;
        send(&socket()?, &link, probe)
    })
}

/// The same without the device's queueing discipline, and so without what the workload's side of a link has attached there.
fn past_the_queues(probe: &Probe<'_>) -> Attempt {
    attempt(|| {
        let link = link(probe)?;
        let socket = socket()?;
        local::set(&socket, libc::SOL_PACKET, PACKET_QDISC_BYPASS, &1_i32)
            .map_err(|error| Attempt::not_available(format_args!("PACKET_QDISC_BYPASS: {error}")))?;
        send(&socket, &link, probe)
    })
}

/// The link, for who may write to it.
fn link(probe: &Probe<'_>) -> Result<Link, Attempt> {
    local::needs(local::NET_RAW)?;
    Link::to(probe)
}

fn socket() -> Result<Socket, Attempt> {
    Socket::new(Domain::PACKET, Type::DGRAM, None).map_err(|error| Attempt::refused(&error))
}

fn send(socket: &Socket, link: &Link, probe: &Probe<'_>) -> Result<Attempt, Attempt> {
    let packet = packet::datagram(link.source, probe.target()?, probe.token.as_bytes());
    link::send(socket, link.index, ETH_P_IP, link.next_hop, &packet)
        .map_err(|error| Attempt::refused(&error))?;
    Ok(Attempt::sent())
}
