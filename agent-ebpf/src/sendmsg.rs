//! `sendmsg4` and `sendmsg6`: UDP that is sent with an address. What is decided is in `datagram`.

use core::ptr::{addr_of, read_volatile};

use agent_common::Endpoint;
use agent_ebpf::datagram::datagram;
use aya_ebpf::{bindings::bpf_sock_addr, programs::SockAddrContext};

use crate::{
    connect::{answer, bytes, read_v6},
    maps::{POLICY, Reachable},
};

/// To an IPv4 address, also from an IPv6 socket.
#[inline(always)]
pub(crate) fn v4(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: the kernel's context, at its fixed offsets.
    let (ip, port) = unsafe { (read_volatile(addr_of!((*addr).user_ip4)), port(addr)) };
    decide(ctx, &Endpoint::v4(ip.to_ne_bytes(), port))
}

/// To an IPv6 address.
#[inline(always)]
pub(crate) fn v6(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: as in `v4`.
    let (words, port) = unsafe { (read_v6(addr), port(addr)) };
    decide(ctx, &Endpoint::v6(bytes(words), port))
}

/// The destination's port, host order.
///
/// # Safety
/// `addr` is the kernel's context.
#[inline(always)]
pub(crate) unsafe fn port(addr: *mut bpf_sock_addr) -> u16 {
    // SAFETY: the context's field at its fixed offset.
    u16::from_be(unsafe { read_volatile(addr_of!((*addr).user_port)) } as u16)
}

#[inline(always)]
fn decide(ctx: &SockAddrContext, destination: &Endpoint) -> i32 {
    // SAFETY: the kernel's context.
    let reachable = unsafe { Reachable::new(ctx.sock_addr.cast()) };
    answer(datagram(POLICY.get(), destination, &reachable))
}
