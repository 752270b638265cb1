//! A VXLAN device: what is sent by it leaves as UDP of the kernel's own socket.
//!
//! The device is in a network namespace of this attempt's own, with which it goes; what it sends is sent in another.

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

/// Sends by a device of this network namespace.
pub(super) fn here(probe: &Probe<'_>) -> Attempt {
    attempt(|| send(probe, None))
}

/// Sends by a device of the network namespace at the other end of the link: with CAP_NET_ADMIN over its user namespace, too,
/// the node's network does what it is told.
pub(super) fn at_the_other_end(probe: &Probe<'_>) -> Attempt {
    attempt(|| {
        local::needs(local::NET_ADMIN)?;
        let target = *probe.target()?.ip();
        let Some(route) = local::route(target).filter(|route| route.next_hop != target) else {
            return Err(Attempt::not_available("no router leads to the target"));
        };
        let other =
            if_nametoindex(route.device.as_str()).map_err(io::Error::from).and_then(netlink::other_end);
        match other {
            Ok(Some(other)) => send(probe, Some(other)),
            Ok(None) => Err(Attempt::not_available(
                "the link does not end in another network namespace of this machine",
            )),
            Err(error) => Err(Attempt::not_available(format_args!("the link: {error}"))),
        }
    })
}

fn send(probe: &Probe<'_>, sender: Option<i32>) -> Result<Attempt, Attempt> {
    let target = probe.target()?;
    local::needs(local::NET_ADMIN)?;
    // For the frame inside; a bridge or a forwarded packet would do without.
    local::needs(local::NET_RAW)?;
    let index = make(*target.ip(), sender).map_err(|error| match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => Attempt::not_available("VXLAN is not in this kernel"),
        _ => Attempt::not_available(format_args!("VXLAN device: {error}")),
    })?;
    // The socket by which it sends is made and bound here.
    netlink::change(index, Vec::new()).map_err(|error| Attempt::refused(&error))?;
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, None).map_err(|error| Attempt::refused(&error))?;
    let inner = packet::datagram(target, target, probe.token.as_bytes());
    link::send(&socket, index, ETH_P_IP, EVERYBODY, &inner).map_err(|error| Attempt::refused(&error))?;
    Ok(Attempt::sent())
}

/// Makes the device in a new network namespace, to which the calling thread moves. `sender` is the number of the namespace in
/// which it sends, if not in this one.
fn make(remote: Ipv4Addr, sender: Option<i32>) -> io::Result<u32> {
    let name = format!("egretvb{}", std::process::id());
    // Requests concern the namespace of their socket.
    let here = netlink::socket()?;
    // A port of ours, since others may have a VXLAN of their own.
    let port = local::port();
    let vxlan = vec![InfoVxlan::Id(port.into()), InfoVxlan::Group(remote), InfoVxlan::Port(port)];
    let kind = vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(vxlan))];
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.clone()), LinkAttribute::LinkInfo(kind)];
    let create = NLM_F_CREATE | NLM_F_EXCL;
    if let Some(number) = sender {
        // The number means something here only: so it is made here, and moved at once.
        message.attributes.push(LinkAttribute::LinkNetNsId(number));
        netlink::send(&here, RouteNetlinkMessage::NewLink(message), create)?;
        let mut device = LinkMessage::default();
        device.header.index = if_nametoindex(name.as_str())?;
        let moved = own_namespace().and_then(|own| {
            let mut device = device.clone();
            device.attributes.push(LinkAttribute::NetNsFd(own.as_raw_fd()));
            netlink::send(&here, RouteNetlinkMessage::NewLink(device), 0)
        });
        if let Err(error) = moved {
            netlink::send(&here, RouteNetlinkMessage::DelLink(device), 0)?;
            return Err(error);
        }
    } else {
        let own = own_namespace()?;
        message.attributes.push(LinkAttribute::NetNsFd(own.as_raw_fd()));
        netlink::send(&here, RouteNetlinkMessage::NewLink(message), create)?;
    }
    Ok(if_nametoindex(name.as_str())?)
}

/// Moves the calling thread to a new network namespace.
fn own_namespace() -> io::Result<File> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    File::open("/proc/thread-self/ns/net")
}
