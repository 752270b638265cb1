//! `recvmsg4` and `recvmsg6`: what a DNS listener answers comes from the resolver that was asked. C libraries compare the source
//! of an answer with whom they have asked. Decides nothing, and cannot refuse.

use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use agent_common::{Decision, Endpoint};
use agent_ebpf::{classify::is_loopback, resolver};
use aya_ebpf::{bindings::bpf_sock_addr, programs::SockAddrContext};

use crate::{
    connect::{bytes, read_v6, write_v6},
    maps::{self, CAPTURED, POLICY},
};

/// The only return value that the kernel accepts here.
const DONE: i32 = 1;

/// A datagram for an IPv4 socket.
#[inline(always)]
pub(crate) fn v4(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: the kernel's context, at its fixed offsets.
    let (ip, port) = unsafe { (read_volatile(addr_of!((*addr).user_ip4)), port(addr)) };
    if let Some(resolver) = resolver(addr, &Endpoint::v4(ip.to_ne_bytes(), port))
        && let Some(address) = resolver.address_v4()
    {
        // SAFETY: both fields may be written by this hook.
        unsafe {
            write_volatile(addr_of_mut!((*addr).user_ip4), u32::from_ne_bytes(address));
            write_volatile(addr_of_mut!((*addr).user_port), u32::from(resolver.port().to_be()));
        }
        maps::count(Decision::SourceRestored);
    }
    DONE
}

/// A datagram for an IPv6 socket; of IPv4 it is shown v4-mapped, as without us.
#[inline(always)]
pub(crate) fn v6(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: as in `v4`.
    let (words, port) = unsafe { (read_v6(addr), port(addr)) };
    if let Some(resolver) = resolver(addr, &Endpoint::v6(bytes(words), port)) {
        // SAFETY: all fields may be written by this hook.
        unsafe {
            write_v6(addr, resolver.address());
            write_volatile(addr_of_mut!((*addr).user_port), u32::from(resolver.port().to_be()));
        }
        maps::count(Decision::SourceRestored);
    }
    DONE
}

/// The source's port, host order.
///
/// # Safety
/// `addr` is the kernel's context.
#[inline(always)]
unsafe fn port(addr: *mut bpf_sock_addr) -> u16 {
    // SAFETY: the context's field at its fixed offset.
    u16::from_be(unsafe { read_volatile(addr_of!((*addr).user_port)) } as u16)
}

/// The resolver in whose place `source` answers, if it is one of our listeners.
#[inline(always)]
fn resolver(addr: *mut bpf_sock_addr, source: &Endpoint) -> Option<Endpoint> {
    let policy = POLICY.get();
    if !policy.dns() || !is_loopback(&source.address(), source.address_v4()) {
        return None;
    }
    // SAFETY: the kernel's context; the socket is never null in this hook.
    let socket = unsafe { read_volatile(addr_of!((*addr).__bindgen_anon_1.sk)) };
    // A connected socket remembers whom it asks; its listener may be of an earlier configuration.
    let connected = CAPTURED.get(socket).filter(|captured| {
        captured.is_at_resolver()
            && captured.workload() == policy.workload()
            && captured.listener() == source.port()
    });
    match connected {
        Some(captured) => Some(captured.destination()),
        None => maps::resolver(resolver::numbered(policy, source)?),
    }
}
