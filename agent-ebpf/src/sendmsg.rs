//! `sendmsg4` and `sendmsg6`: UDP that is sent with an address. What is decided is in `datagram`; a query for a captured DNS
//! resolver goes to its listener.

use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use agent_common::{Decision, Endpoint};
use agent_ebpf::{datagram::datagram, destinations::Destinations as _, resolver};
use aya_ebpf::{bindings::bpf_sock_addr, programs::SockAddrContext};

use crate::{
    connect::{LOOPBACK_V4, LOOPBACK_V6, answer, bytes, read_v6, write_v6},
    events,
    listening::receives,
    maps::{POLICY, Reachable},
};

/// To an IPv4 address, also from an IPv6 socket.
#[inline(always)]
pub(crate) fn v4(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: the kernel's context, at its fixed offsets.
    let (ip, port) = unsafe { (read_volatile(addr_of!((*addr).user_ip4)), port(addr)) };
    let destination = Endpoint::v4(ip.to_ne_bytes(), port);
    let (mut decision, listener) = decide(ctx, &destination);
    if listener != 0 {
        // Is the agent there? A socket that is not connected never hears that it is not: its owner would wait for an answer.
        // SAFETY: the kernel's context.
        if unsafe { receives(addr, true, listener) } {
            // SAFETY: both fields may be written by this hook.
            unsafe {
                write_volatile(addr_of_mut!((*addr).user_ip4), u32::from_ne_bytes(LOOPBACK_V4));
                write_volatile(addr_of_mut!((*addr).user_port), u32::from(listener.to_be()));
            }
        } else {
            decision = Decision::RefusedNoListener;
        }
    }
    events::decided(decision, destination);
    answer(decision)
}

/// To an IPv6 address.
#[inline(always)]
pub(crate) fn v6(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: as in `v4`.
    let (words, port) = unsafe { (read_v6(addr), port(addr)) };
    let destination = Endpoint::v6(bytes(words), port);
    let (mut decision, listener) = decide(ctx, &destination);
    if listener != 0 {
        // Is the agent there? A socket that is not connected never hears that it is not: its owner would wait for an answer.
        // SAFETY: the kernel's context.
        if unsafe { receives(addr, false, listener) } {
            // SAFETY: all fields may be written by this hook.
            unsafe {
                write_v6(addr, LOOPBACK_V6);
                write_volatile(addr_of_mut!((*addr).user_port), u32::from(listener.to_be()));
            }
        } else {
            decision = Decision::RefusedNoListener;
        }
    }
    events::decided(decision, destination);
    answer(decision)
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

/// Decides; with the port of the DNS listener where the datagram is to be sent there, else 0.
#[inline(always)]
fn decide(ctx: &SockAddrContext, destination: &Endpoint) -> (Decision, u16) {
    let policy = POLICY.get();
    // SAFETY: the kernel's context.
    let reachable = unsafe { Reachable::new(ctx.sock_addr.cast()) };
    let decision = datagram(policy, destination, &reachable);
    if decision != Decision::CapturedQuery {
        return (decision, 0);
    }
    let number = reachable.resolver(destination).unwrap_or(u8::MAX);
    (decision, resolver::listener(policy, destination.address_v4().is_some(), number))
}
