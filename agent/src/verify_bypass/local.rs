//! What can be seen from inside: where the kernel's table says a socket is connected, routes, capabilities, protocols.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
    ptr,
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
    },
};

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use super::{PATIENCE, vector::Attempt};

/// Source ports of the battery: below the ephemeral range (32768 and up, unless somebody changed it), so that no connection
/// of the gateway has one of them.
const PORTS: std::ops::Range<u16> = 12_000..30_000;

/// From a place of this process's own, and none twice: an arrival has to belong to one vector.
static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(rand::random_range(PORTS)));

/// A stream socket of ours at a source port of ours, whose calls end in time.
pub(super) fn stream(domain: Domain, protocol: Option<Protocol>) -> io::Result<(Socket, u16)> {
    let socket = Socket::new(domain, Type::STREAM, protocol)?;
    let port = prepare(&socket, domain)?;
    Ok((socket, port))
}

/// Binds to a port of ours, and limits the time of every call.
pub(super) fn prepare(socket: &Socket, domain: Domain) -> io::Result<u16> {
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let any = if domain == Domain::IPV4 {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        IpAddr::from(Ipv6Addr::UNSPECIFIED)
    };
    let mut tries = 0;
    loop {
        let port = port();
        tries += 1;
        match socket.bind(&SocketAddr::new(any, port).into()) {
            Ok(()) => return Ok(port),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < 32 => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sets an option that the libraries do not know.
pub(super) fn set<T>(socket: &impl AsRawFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: pointer and length are those of `value`, which lives during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Loose source routing by one hop (RFC 791, 3.1), which takes no privilege.
pub(super) fn route_by(socket: &Socket, hop: Ipv4Addr) -> io::Result<()> {
    let [a, b, c, d] = hop.octets();
    set(
        socket,
        libc::IPPROTO_IP,
        libc::IP_OPTIONS,
        &[libc::IPOPT_LSRR, 7, libc::IPOPT_MINOFF, a, b, c, d, libc::IPOPT_EOL],
    )
}

/// The next port of ours.
pub(super) fn port() -> u16 {
    PORTS.start + NEXT.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start)
}

/// Where the TCP socket at this local port is connected to, by the kernel's table: capture rewrites it, getpeername does not
/// show it.
pub(super) fn remote_of(port: u16) -> Option<SocketAddr> {
    ["tcp", "tcp6"].iter().find_map(|table| {
        remote_in(&fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok()?, port)
    })
}

/// Lines of proc_net_tcp(5): number, local address, remote address, state, …; addresses as hexadecimal words in host order.
fn remote_in(table: &str, port: u16) -> Option<SocketAddr> {
    let address = |text: &str| {
        let (address, port) = text.split_once(':')?;
        let words: Vec<[u8; 4]> = (0..address.len() / 8)
            .filter_map(|word| {
                Some(u32::from_str_radix(address.get(word * 8..word * 8 + 8)?, 16).ok()?.to_ne_bytes())
            })
            .collect();
        let ip = match words.as_flattened() {
            bytes if bytes.len() == 4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
            bytes => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
        };
        Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
    };
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (own, remote) = (address(fields.next()?)?, address(fields.next()?)?);
        (own.port() == port && remote.port() != 0).then_some(remote)
    })
}

/// An IPv4 address that came v4-mapped.
pub(super) fn unmapped(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// The interface and, where there is one, the next hop to an IPv4 address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) device: String,
    pub(super) next_hop: Ipv4Addr,
}

/// The route that the main table gives.
pub(super) fn route(to: Ipv4Addr) -> Option<Route> {
    route_in(&fs::read_to_string("/proc/thread-self/net/route").ok()?, to)
}

/// Lines of /proc/net/route: interface, destination, gateway, flags, …, mask as the eighth field; words in host order.
fn route_in(table: &str, to: Ipv4Addr) -> Option<Route> {
    let to_bits = u32::from_ne_bytes(to.octets());
    let routes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let word = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
        let (destination, gateway, mask) = (word(1)?, word(2)?, word(7)?);
        (to_bits & mask == destination).then(|| {
            let next_hop = if gateway == 0 { to } else { Ipv4Addr::from(gateway.to_ne_bytes()) };
            (mask.count_ones(), Route { device: (*fields.first().unwrap_or(&"")).to_owned(), next_hop })
        })
    });
    routes.max_by_key(|(length, _)| *length).map(|(_, route)| route)
}

/// A capability: its bit (linux/capability.h), and its name.
#[derive(Clone, Copy)]
pub(super) struct Capability(u32, &'static str);

pub(super) const NET_ADMIN: Capability = Capability(12, "CAP_NET_ADMIN");
pub(super) const NET_RAW: Capability = Capability(13, "CAP_NET_RAW");

/// Ends an attempt that this thread lacks a capability for. (With one, EPERM is somebody's refusal.)
pub(super) fn needs(capability: Capability) -> Result<(), Attempt> {
    if has(capability.0) {
        Ok(())
    } else {
        Err(Attempt::not_available(format_args!("without {}", capability.1)))
    }
}

fn has(bit: u32) -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .is_some_and(|set| set & (1 << bit) != 0)
}

/// Whether the kernel has a protocol, by its name in /proc/net/protocols. Asked after an attempt, which may load a module.
pub(super) fn has_protocol(name: &str) -> bool {
    let list = fs::read_to_string("/proc/thread-self/net/protocols").unwrap_or_default();
    list.lines().any(|line| line.split_whitespace().next() == Some(name))
}

#[cfg(test)]
mod tests {
    use super::{Route, remote_in, route_in};

    #[cfg(target_endian = "little")]
    #[test]
    fn the_tables_of_the_kernel_are_understood() {
        let table = "  sl  local_address rem_address   st\n\
                     0: 0100007F:4E20 00000000:0000 0A\n\
                     1: 0100007F:4E20 0100007F:9C40 01\n";
        assert_eq!(remote_in(table, 20_000), "127.0.0.1:40000".parse().ok());
        assert_eq!(remote_in(table, 20_001), None);
        let table = "  sl  local_address rem_address   st\n\
                     0: 00000000000000000000000000000000:4E20 0000000000000000FFFF00000100007F:9C40 01\n";
        assert_eq!(remote_in(table, 20_000), "[::ffff:127.0.0.1]:40000".parse().ok());

        let table = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
                     eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n\
                     veth 007100CB 00000000 0001 0 0 0 00FFFFFF 0 0 0\n";
        let route = |to: &str| route_in(table, to.parse().unwrap()).unwrap();
        assert_eq!(
            route("203.0.113.7"),
            Route { device: "veth".to_owned(), next_hop: "203.0.113.7".parse().unwrap() }
        );
        assert_eq!(
            route("1.1.1.1"),
            Route { device: "eth0".to_owned(), next_hop: "192.0.2.1".parse().unwrap() }
        );
    }
}
