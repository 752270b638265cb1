//! An address and port in the one form that both families share. Used in map keys and values; parses nothing.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An IP address and a port. IPv4 is kept v4-mapped (RFC 4291 §2.5.5.2), so that a v4 socket, and a v6 socket that talks IPv4, agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Endpoint {
    /// Network order.
    address: [u8; 16],
    /// Network order.
    port: [u8; 2],
    /// Always zero: map keys are compared byte by byte.
    reserved: [u8; 2],
}

impl Endpoint {
    /// From an IPv4 address in network order and a port in host order.
    #[inline(always)]
    pub const fn v4(address: [u8; 4], port: u16) -> Self {
        let [a, b, c, d] = address;
        Self::v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d], port)
    }

    /// From an IPv6 address (v4-mapped ones too) in network order and a port in host order.
    #[inline(always)]
    pub const fn v6(address: [u8; 16], port: u16) -> Self {
        Self { address, port: port.to_be_bytes(), reserved: [0; 2] }
    }

    /// The address in network order, IPv4 v4-mapped.
    #[inline(always)]
    pub const fn address(&self) -> [u8; 16] {
        self.address
    }

    /// The IPv4 address in network order, if it is one.
    #[inline(always)]
    pub const fn address_v4(&self) -> Option<[u8; 4]> {
        match self.address {
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Some([a, b, c, d]),
            _ => None,
        }
    }

    /// The port in host order.
    #[inline(always)]
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        match address.ip() {
            IpAddr::V4(ip) => Self::v4(ip.octets(), address.port()),
            IpAddr::V6(ip) => Self::v6(ip.octets(), address.port()),
        }
    }
}

impl From<Endpoint> for SocketAddr {
    /// v4-mapped addresses come out as IPv4.
    fn from(endpoint: Endpoint) -> Self {
        let ip = match endpoint.address_v4() {
            Some(octets) => IpAddr::V4(Ipv4Addr::from(octets)),
            None => IpAddr::V6(Ipv6Addr::from(endpoint.address)),
        };
        Self::new(ip, endpoint.port())
    }
}
