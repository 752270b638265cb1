//! A VXLAN device: what is sent by it leaves as UDP of the kernel's own socket.
//!
//! The device is in a network namespace of this attempt's own, with which it goes; what it sends is sent where it was made.

use std::{fs::File, io, net::Ipv4Addr, os::fd::AsRawFd as _};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage},
};
use nix::{
    libc,
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};
use socket2::{Domain, Socket, Type};

use super::super::{
    link::{self, ETH_P_IP, EVERYBODY},
    local, netlink, packet,
    vector::{Attempt, Probe, attempt},
};

const NAME: &str = "egretvb";

pub(super) fn send(probe: &Probe<'_>) -> Attempt {
    attempt(|| {
        let target = probe.target()?;
        local::needs(local::NET_ADMIN)?;
        // For the frame inside; a bridge or a forwarded packet would do without.
        local::needs(local::NET_RAW)?;
        let index = make(*target.ip()).map_err(|error| match error.raw_os_error() {
            Some(libc::EOPNOTSUPP) => Attempt::not_available("VXLAN is not in this kernel"),
            _ => Attempt::not_available(format_args!("VXLAN device: {error}")),
        })?;
        let socket =
            Socket::new(Domain::PACKET, Type::DGRAM, None).map_err(|error| Attempt::refused(&error))?;
        let inner = packet::datagram(target, target, probe.token.as_bytes());
        link::send(&socket, index, ETH_P_IP, EVERYBODY, &inner).map_err(|error| Attempt::refused(&error))?;
        Ok(Attempt::sent())
    })
}

/// Makes the device, and moves the calling thread to where it is.
fn make(remote: Ipv4Addr) -> io::Result<u32> {
    // Requests concern the namespace of their socket.
    let here = netlink::socket()?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    let own = File::open("/proc/thread-self/ns/net")?;
    // A port of ours, since others may have a VXLAN of their own.
    let port = local::port();
    let vxlan = vec![InfoVxlan::Id(port.into()), InfoVxlan::Group(remote), InfoVxlan::Port(port)];
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(NAME.to_owned()),
        LinkAttribute::NetNsFd(own.as_raw_fd()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(vxlan)),
        ]),
    ];
    netlink::send(&here, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)?;
    let index = if_nametoindex(NAME)?;
    netlink::change(index, Vec::new())?;
    Ok(index)
}
