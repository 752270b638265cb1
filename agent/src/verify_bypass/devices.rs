//! Devices that the workload makes: what comes out of one belongs to no socket of the workload, or tells a lie about who
//! has spoken to it. They take CAP_NET_ADMIN.
//!
//! Every device goes by itself, also when the battery is killed: a TUN device with its descriptor, a VXLAN device with the
//! network namespace that it is in.

mod tun;
mod vxlan;

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
};

use netlink_packet_route::link::InetDevConf;

use self::tun::Tun;
use super::{
    PATIENCE, local, packet,
    udp::sent,
    vector::{Attempt, Expected::Blocked, Probe, Vector, attempt},
};

pub(super) const VECTORS: &[Vector] = &[
    Vector { name: "tun device, forwarded", expected: Blocked, attempt: forwarded },
    Vector { name: "udp answer to a made-up caller", expected: Blocked, attempt: made_up_caller },
    Vector { name: "vxlan device", expected: Blocked, attempt: vxlan::send },
];

/// A packet comes out of a TUN device as if somebody there had sent it, and is forwarded by the kernel.
fn forwarded(probe: &Probe<'_>) -> Attempt {
    attempt(|| {
        let (target, tun) = (probe.target()?, tun()?);
        if local::route(*target.ip()).is_none() {
            return Err(Attempt::not_available("no device leads to the target"));
        }
        let mut switches = InetDevConf::default();
        switches.forwarding = 1;
        tun.configure(switches).map_err(|error| no_device(&error))?;
        let from = SocketAddrV4::new(tun.neighbour, 15_008);
        tun.receive(&packet::datagram(from, target, probe.token.as_bytes()))
            .map_err(|error| Attempt::refused(&error))?;
        Ok(Attempt::sent())
    })
}

/// The target seems to have called first, so that an answer is due.
fn made_up_caller(probe: &Probe<'_>) -> Attempt {
    attempt(|| {
        let (target, tun) = (probe.target()?, tun()?);
        let call = || -> io::Result<UdpSocket> {
            // Packets for the target do not go there: the filter for reverse paths is to be content with any way.
            let mut switches = InetDevConf::default();
            switches.rp_filter = 2;
            tun.configure(switches)?;
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            let to = SocketAddrV4::new(tun.address, socket.local_addr()?.port());
            tun.receive(&packet::datagram(target, to, b"call"))?;
            socket.recv_from(&mut [0; 16])?;
            Ok(socket)
        };
        let socket = call().map_err(|error| {
            Attempt::not_available(format_args!("the made-up call did not arrive: {error}"))
        })?;
        Ok(sent(socket.send_to(probe.token.as_bytes(), target)))
    })
}

fn tun() -> Result<Tun, Attempt> {
    local::needs(local::NET_ADMIN)?;
    Tun::new().map_err(|error| no_device(&error))
}

fn no_device(error: &io::Error) -> Attempt {
    Attempt::not_available(format_args!("TUN device: {error}"))
}
