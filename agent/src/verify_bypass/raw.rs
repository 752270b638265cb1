//! Below the transports: ping sockets, raw sockets, frames, SCTP.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::AsRawFd as _,
};

use nix::{libc, net::if_::if_nametoindex};
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    local::{self, Route},
    tcp,
    udp::sent,
    vector::{Attempt, Expected::Blocked, Probe, Vector},
};

pub(super) const VECTORS: &[Vector] = &[
    Vector { name: "icmp ping socket", expected: Blocked, attempt: ping },
    Vector { name: "raw icmp", expected: Blocked, attempt: raw_icmp },
    Vector { name: "raw ip protocol 253", expected: Blocked, attempt: raw_ip },
    Vector { name: "af_packet", expected: Blocked, attempt: packet },
    Vector { name: "sctp", expected: Blocked, attempt: sctp },
];

const CAP_NET_RAW: u32 = 13;
const NO_CAPABILITY: &str = "without CAP_NET_RAW";

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
    let target = match probe.target() {
        Ok(target) => target,
        Err(attempt) => return attempt,
    };
    if !local::has_capability(CAP_NET_RAW) {
        return Attempt::not_available(NO_CAPABILITY);
    }
    echo(Type::RAW, probe, *target.ip())
}

/// Sends an echo request with the token (RFC 792).
fn echo(kind: Type, probe: &Probe<'_>, to: Ipv4Addr) -> Attempt {
    let mut message = vec![8, 0, 0, 0, 0x15, 0x08, 0, 1];
    message.extend(probe.token.as_bytes());
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    match Socket::new(Domain::IPV4, kind, Some(Protocol::ICMPV4)) {
        Ok(socket) => sent(socket.send_to(&message, &SocketAddrV4::new(to, 0).into())),
        Err(error) => Attempt::refused(&error),
    }
}

/// A protocol number for experiments (RFC 3692).
fn raw_ip(probe: &Probe<'_>) -> Attempt {
    let target = match probe.target() {
        Ok(target) => target,
        Err(attempt) => return attempt,
    };
    if !local::has_capability(CAP_NET_RAW) {
        return Attempt::not_available(NO_CAPABILITY);
    }
    match Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(253))) {
        Ok(socket) => {
            sent(socket.send_to(probe.token.as_bytes(), &SocketAddrV4::new(*target.ip(), 0).into()))
        }
        Err(error) => Attempt::refused(&error),
    }
}

/// A UDP packet, handed to the device: no hook of the socket's cgroup sees it.
fn packet(probe: &Probe<'_>) -> Attempt {
    let target = match probe.target() {
        Ok(target) => target,
        Err(attempt) => return attempt,
    };
    if !local::has_capability(CAP_NET_RAW) {
        return Attempt::not_available(NO_CAPABILITY);
    }
    let Some(route) = local::route(*target.ip()) else {
        return Attempt::not_available("no device leads to the target");
    };
    match frame(&route, &datagram(target, probe.token.as_bytes())) {
        Ok(()) => sent(Ok(0)),
        Err(error) => Attempt::refused(&error),
    }
}

/// Sends an IPv4 packet out of the route's device. The next hop's link address is the kernel's, else everybody's.
fn frame(route: &Route, packet: &[u8]) -> io::Result<()> {
    const ETH_P_IP: u16 = 0x0800;
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
    let neighbours = fs::read_to_string("/proc/thread-self/net/arp").unwrap_or_default();
    let hardware = link_address(&neighbours, route.next_hop).unwrap_or([0xff; 6]);
    // SAFETY: an all-zero sockaddr_ll is a valid value.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_protocol = ETH_P_IP.to_be();
    to.sll_ifindex = if_nametoindex(route.device.as_str())?.cast_signed();
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

/// IPv4 and UDP headers around a payload. The source is nobody's (0.0.0.0): what matters is whether it leaves.
fn datagram(to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let udp_length = (8 + payload.len()) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    packet[2..4].copy_from_slice(&(20 + udp_length).to_be_bytes());
    packet[16..20].copy_from_slice(&to.ip().octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(15_008_u16.to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(udp_length.to_be_bytes());
    // No checksum, which IPv4 allows.
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or_default()))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
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

#[cfg(test)]
mod tests {
    use super::{checksum, datagram, link_address};

    #[test]
    fn packets_are_well_formed() {
        let packet = datagram("192.0.2.7:80".parse().unwrap(), b"abc");
        assert_eq!(packet.len(), 31);
        assert_eq!(checksum(&packet[..20]), 0, "a header with its checksum sums up to nothing");
        assert_eq!(u16::from_be_bytes([packet[2], packet[3]]), 31);
        assert_eq!(
            checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]),
            !0xddf2,
            "RFC 1071's example"
        );
    }

    #[test]
    fn only_complete_neighbours_count() {
        let table = "IP address HW type Flags HW address Mask Device\n\
                     192.0.2.7 0x1 0x2 02:00:00:00:00:01 * eth0\n\
                     192.0.2.8 0x1 0x0 00:00:00:00:00:00 * eth0\n";
        assert_eq!(link_address(table, "192.0.2.7".parse().unwrap()), Some([2, 0, 0, 0, 0, 1]));
        assert_eq!(link_address(table, "192.0.2.8".parse().unwrap()), None);
    }
}
