//! A TUN device of this network namespace, up and with an address, for as long as its descriptor is open.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    net::Ipv4Addr,
    os::fd::AsRawFd as _,
};

use nix::{libc, net::if_::if_nametoindex};

use super::super::netlink::{self, Request};

/// `IPV4_DEVCONF_…` in `include/uapi/linux/ip.h`.
pub(super) const FORWARDING: u16 = 1;
pub(super) const REVERSE_PATH_FILTER: u16 = 8;

const RTM_NEWADDR: u16 = 20;
const IFA_LOCAL: u16 = 2;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INET_CONF: u16 = 1;
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
        let socket = netlink::socket()?;
        // Family, prefix length, flags, scope, index (struct ifaddrmsg).
        let mut header = vec![libc::AF_INET as u8, PREFIX, 0, 0];
        header.extend(index.to_ne_bytes());
        Request::new(RTM_NEWADDR, libc::NLM_F_CREATE, &header)
            .with(IFA_LOCAL, &address.octets())
            .send(&socket)?;
        netlink::change(index).send(&socket)?;
        Ok(Self { file, index, address, neighbour })
    }

    /// Sets a switch of IPv4. By netlink, since /proc/sys is often read-only.
    pub(super) fn configure(&self, switch: u16, value: u32) -> io::Result<()> {
        let request = netlink::change(self.index).nest(IFLA_AF_SPEC, |families| {
            families.nest(libc::AF_INET as u16, |v4| {
                v4.nest(IFLA_INET_CONF, |switches| switches.with(switch, &value.to_ne_bytes()))
            })
        });
        request.send(&netlink::socket()?)
    }

    /// A packet that comes in by the device.
    pub(super) fn receive(&self, packet: &[u8]) -> io::Result<()> {
        (&self.file).write_all(packet)
    }
}
