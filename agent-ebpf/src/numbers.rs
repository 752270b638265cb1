//! Numbers of the kernel's interface that several deciders need. They decide nothing.

pub(crate) const SOCK_STREAM: u32 = 1;
pub(crate) const SOCK_DGRAM: u32 = 2;
pub(crate) const SOCK_RAW: u32 = 3;
pub(crate) const IPPROTO_ICMP: u32 = 1;
pub(crate) const IPPROTO_TCP: u32 = 6;
pub(crate) const IPPROTO_UDP: u32 = 17;
pub(crate) const IPPROTO_ICMPV6: u32 = 58;
pub(crate) const IPPROTO_MPTCP: u32 = 262;
/// Index of the loopback device, in every network namespace.
pub(crate) const LOOPBACK_DEVICE: u32 = 1;
