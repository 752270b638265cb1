//! The link to the target, for frames that are written by hand: device, own addresses, the next hop's. Called by `frames`
//! and `devices`.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use nix::{ifaddrs::getifaddrs, libc, net::if_::if_nametoindex};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    local, packet,
    vector::{Attempt, Probe},
};

pub(super) const ETH_P_IP: u16 = 0x0800;
const ETH_P_ARP: u16 = 0x0806;
pub(super) const EVERYBODY: [u8; 6] = [0xff; 6];

/// What an answer to "who has" may take.
const ANSWER: Duration = Duration::from_millis(300);

/// Where frames to the target go.
pub(super) struct Link {
    pub(super) index: u32,
    /// Where packets of this network namespace come from.
    pub(super) source: SocketAddrV4,
    pub(super) hardware: [u8; 6],
    /// The next hop's link address, else everybody's: a router forwards nothing that is sent to all.
    pub(super) next_hop: [u8; 6],
}

impl Link {
    /// The link to the target of a probe.
    pub(super) fn to(probe: &Probe<'_>) -> Result<Self, Attempt> {
        let target = *probe.target()?.ip();
        let Some(route) = local::route(target) else {
            return Err(Attempt::not_available("no device leads to the target"));
        };
        let find = || -> io::Result<Self> {
            let index = if_nametoindex(route.device.as_str())?;
            let source = SocketAddrV4::new(source(target)?, 15_008);
            let mut addresses = getifaddrs()?.filter(|one| one.interface_name == route.device);
            // Devices without link addresses (TUN, WireGuard) take any.
            let hardware = addresses.find_map(|one| one.address?.as_link_addr()?.addr());
            let hardware = hardware.unwrap_or_default();
            let known = fs::read_to_string("/proc/thread-self/net/arp").unwrap_or_default();
            let next_hop = match link_address(&known, route.next_hop) {
                Some(known) => known,
                None => ask(index, route.next_hop, (hardware, *source.ip()))?.unwrap_or(EVERYBODY),
            };
            Ok(Self { index, source, hardware, next_hop })
        };
        find().map_err(|error| Attempt::not_available(format_args!("device {}: {error}", route.device)))
    }
}

/// Our address on the way to another. Connecting a UDP socket sends nothing.
fn source(target: Ipv4Addr) -> io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((target, 9))?;
    match socket.local_addr()? {
        SocketAddr::V4(own) => Ok(*own.ip()),
        SocketAddr::V6(own) => Err(io::Error::other(format!("{own} is not IPv4"))),
    }
}

/// Lines of /proc/net/arp: address, type, flags, link address.
fn link_address(table: &str, of: Ipv4Addr) -> Option<[u8; 6]> {
    let wanted = of.to_string();
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let bytes = || -> Option<Vec<u8>> {
            fields.get(3)?.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect()
        };
        // Flag 2: complete.
        (fields.first() == Some(&wanted.as_str()) && fields.get(2) == Some(&"0x2"))
            .then(bytes)??
            .try_into()
            .ok()
    })
}

/// Asks the link for a neighbour. The kernel does it only for packets that it sends itself.
fn ask(index: u32, neighbour: Ipv4Addr, own: ([u8; 6], Ipv4Addr)) -> io::Result<Option<[u8; 6]>> {
    let protocol = Protocol::from(i32::from(ETH_P_ARP.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
    socket.set_read_timeout(Some(ANSWER))?;
    send(&socket, index, ETH_P_ARP, EVERYBODY, &packet::who_has(neighbour, own))?;
    let deadline = Instant::now() + ANSWER;
    let mut answer = [0; 64];
    while Instant::now() < deadline {
        match io::Read::read(&mut &socket, &mut answer) {
            Ok(length) => {
                if let Some(found) = packet::is_at(&answer[..length], neighbour) {
                    return Ok(Some(found));
                }
            }
            Err(_) => break,
        }
    }
    Ok(None)
}

/// Sends a packet out of a device, to a link address.
pub(super) fn send(
    socket: &Socket,
    index: u32,
    protocol: u16,
    hardware: [u8; 6],
    packet: &[u8],
) -> io::Result<()> {
    // SAFETY: an all-zero sockaddr_ll is a valid value.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_protocol = protocol.to_be();
    to.sll_ifindex = index.cast_signed();
    to.sll_halen = 6;
    to.sll_addr[..6].copy_from_slice(&hardware);
    // SAFETY: packet and address live during the call, with their true lengths.
    let result = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            packet.as_ptr().cast(),
            packet.len(),
            0,
            (&raw const to).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::link_address;

    #[test]
    fn only_complete_neighbours_count() {
        let table = "IP address HW type Flags HW address Mask Device\n\
                     192.0.2.7 0x1 0x2 02:00:00:00:00:01 * eth0\n\
                     192.0.2.8 0x1 0x0 00:00:00:00:00:00 * eth0\n";
        assert_eq!(link_address(table, "192.0.2.7".parse().unwrap()), Some([2, 0, 0, 0, 0, 1]));
        assert_eq!(link_address(table, "192.0.2.8".parse().unwrap()), None);
    }
}
