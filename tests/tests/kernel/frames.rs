//! Frames that a workload makes up: Ethernet, IPv4, UDP and TCP, byte by byte.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddrV4},
};

use nix::ifaddrs::getifaddrs;

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// The Ethernet address of a device of this thread's network namespace.
pub(crate) fn hardware(device: &str) -> [u8; 6] {
    getifaddrs()
        .expect("interfaces")
        .filter(|interface| interface.interface_name == device)
        .find_map(|interface| interface.address?.as_link_addr()?.addr())
        .expect("an Ethernet address")
}

/// A frame as the connector takes it.
pub(crate) fn frame(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> String {
    let mut bytes = [to, from].concat();
    bytes.extend(kind.to_be_bytes());
    bytes.extend(payload);
    hexadecimal(&bytes)
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

/// A datagram of UDP, without a checksum.
pub(crate) fn udp(source: u16, destination: u16, text: &str) -> Vec<u8> {
    let length = 8 + text.len() as u16;
    let mut bytes = [source, destination, length, 0].map(u16::to_be_bytes).concat();
    bytes.extend(text.bytes());
    bytes
}

/// A header of TCP, without a checksum: nobody gets far enough to look at it.
pub(crate) fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut bytes = [source, destination].map(u16::to_be_bytes).concat();
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes
}

/// An IPv4 packet. `fragment`: flags and offset; `options`: whole words.
pub(crate) struct Packet<'a> {
    pub(crate) source: Ipv4Addr,
    pub(crate) destination: Ipv4Addr,
    pub(crate) protocol: u8,
    pub(crate) fragment: u16,
    pub(crate) options: &'a [u8],
    pub(crate) payload: &'a [u8],
}

impl Packet<'_> {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let words = 5 + (self.options.len() / 4) as u8;
        let length = u16::from(words) * 4 + self.payload.len() as u16;
        let mut bytes = vec![0x40 | words, 0];
        bytes.extend([length, 7, self.fragment].map(u16::to_be_bytes).concat());
        bytes.extend([64, self.protocol, 0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(self.options);
        let sum = checksum(&bytes);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(self.payload);
        bytes
    }
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

/// A whole datagram.
pub(crate) fn datagram(source: SocketAddrV4, destination: SocketAddrV4, text: &str) -> Vec<u8> {
    Packet {
        source: *source.ip(),
        destination: *destination.ip(),
        protocol: UDP,
        fragment: 0,
        options: &[],
        payload: &udp(source.port(), destination.port(), text),
    }
    .bytes()
}
