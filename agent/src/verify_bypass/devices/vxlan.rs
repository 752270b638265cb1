//! A VXLAN device: what is sent by it leaves as UDP of the kernel's own socket.
//!
//! The device is in a network namespace of this attempt's own, with which it goes; what it sends is sent where it was made.

use std::{fs::File, io, os::fd::AsRawFd as _};

use nix::{
    libc,
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
};
use socket2::{Domain, Socket, Type};

use super::super::{
    link::{self, ETH_P_IP, EVERYBODY},
    local,
    netlink::{self, Request},
    packet,
    vector::{Attempt, Probe, attempt},
};

const NAME: &str = "egretvb";

/// `include/uapi/linux/if_link.h`.
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_GROUP: u16 = 2;
const IFLA_VXLAN_PORT: u16 = 15;

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
fn make(remote: std::net::Ipv4Addr) -> io::Result<u32> {
    // Requests concern the namespace of their socket.
    let here = netlink::socket()?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    let own = File::open("/proc/thread-self/ns/net")?;
    // A port of ours, since others may have a VXLAN of their own.
    let port = local::port();
    let request =
        Request::new(libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &netlink::link(0, false));
    let request = request
        .with(IFLA_IFNAME, format!("{NAME}\0").as_bytes())
        .with(IFLA_NET_NS_FD, &own.as_raw_fd().to_ne_bytes())
        .nest(IFLA_LINKINFO, |info| {
            info.with(IFLA_INFO_KIND, b"vxlan").nest(IFLA_INFO_DATA, |data| {
                data.with(IFLA_VXLAN_ID, &u32::from(port).to_ne_bytes())
                    .with(IFLA_VXLAN_GROUP, &remote.octets())
                    .with(IFLA_VXLAN_PORT, &port.to_be_bytes())
            })
        });
    request.send(&here)?;
    let index = if_nametoindex(NAME)?;
    netlink::change(index).send(&netlink::socket()?)?;
    Ok(index)
}
