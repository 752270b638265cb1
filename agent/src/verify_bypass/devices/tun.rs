//! A TUN device of this network namespace, up and with an address, for as long as its descriptor is open.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    net::Ipv4Addr,
    os::fd::AsRawFd as _,
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{AfSpecInet, AfSpecUnspec, InetDevConf, LinkAttribute},
};
use nix::{libc, net::if_::if_nametoindex};

use super::super::netlink;

/// Prefix of the link: this end, the other end, and two that are not used.
const PREFIX: u8 = 30;

/// The device.
pub(super) struct Tun {
    file: File,
    index: u32,
    /// This end.
    pub(super) address: Ipv4Addr,
    /// An address at the other end, where nobody is.
    pub(super) neighbour: Ipv4Addr,
}

impl Tun {
    /// Makes it. Its addresses are of the range for benchmarks (RFC 2544), which is nobody's.
    pub(super) fn new() -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        // SAFETY: an all-zero ifreq is a valid value; every field is plain data.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(b"egretvb%d") {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
        // SAFETY: TUNSETIFF reads and writes one ifreq, which lives for the call.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let name = request.ifr_name.map(libc::c_char::cast_unsigned);
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let index = if_nametoindex(name)?;
        let subnet = u32::from(Ipv4Addr::new(198, 18, 0, 0)) | (rand::random::<u32>() & 0x1_fffc);
        let (address, neighbour) = (Ipv4Addr::from(subnet | 1), Ipv4Addr::from(subnet | 2));
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = PREFIX;
        message.header.index = index;
        message.attributes.push(AddressAttribute::Local(address.into()));
        let request = RouteNetlinkMessage::NewAddress(message);
        netlink::send(&netlink::socket()?, request, NLM_F_CREATE | NLM_F_EXCL)?;
        netlink::change(index, Vec::new())?;
        Ok(Self { file, index, address, neighbour })
    }

    /// Sets switches of IPv4. By netlink, since /proc/sys is often read-only.
    pub(super) fn configure(&self, switches: InetDevConf) -> io::Result<()> {
        let v4 = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(switches)]);
        netlink::change(self.index, vec![LinkAttribute::AfSpecUnspec(vec![v4])])
    }

    /// A packet that comes in by the device.
    pub(super) fn receive(&self, packet: &[u8]) -> io::Result<()> {
        (&self.file).write_all(packet)
    }
}
