//! `sendmsg4` and `sendmsg6`: UDP that is sent with an address. What is decided is in `datagram`; a query for a captured DNS
//! resolver goes to its listener.

use core::{
    mem::{size_of, zeroed},
    ptr::{addr_of, addr_of_mut, from_mut, read_volatile, write_volatile},
};

use agent_common::{Decision, Endpoint};
use agent_ebpf::{datagram::datagram, destinations::Destinations as _, resolver};
use aya_ebpf::{
    bindings::{bpf_sock_addr, bpf_sock_tuple},
    helpers::{bpf_sk_lookup_udp, bpf_sk_release},
    programs::SockAddrContext,
};

use crate::{
    connect::{LOOPBACK_V4, LOOPBACK_V6, answer, bytes, read_v6, words, write_v6},
    maps::{POLICY, Reachable},
};

/// The network namespace of the socket.
const OWN_NAMESPACE: u64 = u64::MAX;
/// Both addresses and both ports of a tuple of IPv4.
const V4_LENGTH: u32 = 12;

/// To an IPv4 address, also from an IPv6 socket.
#[inline(always)]
pub(crate) fn v4(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: the kernel's context, at its fixed offsets.
    let (ip, port) = unsafe { (read_volatile(addr_of!((*addr).user_ip4)), port(addr)) };
    let (mut decision, listener) = decide(ctx, &Endpoint::v4(ip.to_ne_bytes(), port));
    if listener != 0 {
        if listens(addr, true, listener) {
            // SAFETY: both fields may be written by this hook.
            unsafe {
                write_volatile(addr_of_mut!((*addr).user_ip4), u32::from_ne_bytes(LOOPBACK_V4));
                write_volatile(addr_of_mut!((*addr).user_port), u32::from(listener.to_be()));
            }
        } else {
            decision = Decision::RefusedNoListener;
        }
    }
    answer(decision)
}

/// To an IPv6 address.
#[inline(always)]
pub(crate) fn v6(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: as in `v4`.
    let (words, port) = unsafe { (read_v6(addr), port(addr)) };
    let (mut decision, listener) = decide(ctx, &Endpoint::v6(bytes(words), port));
    if listener != 0 {
        if listens(addr, false, listener) {
            // SAFETY: all fields may be written by this hook.
            unsafe {
                write_v6(addr, LOOPBACK_V6);
                write_volatile(addr_of_mut!((*addr).user_port), u32::from(listener.to_be()));
            }
        } else {
            decision = Decision::RefusedNoListener;
        }
    }
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

/// Whether the agent is there. A socket that is not connected never hears that it is not: its owner would wait for an answer.
#[inline(always)]
fn listens(addr: *mut bpf_sock_addr, v4: bool, listener: u16) -> bool {
    // SAFETY: plain numbers, for which zero is a value.
    let mut tuple: bpf_sock_tuple = unsafe { zeroed() };
    let length = if v4 {
        tuple.__bindgen_anon_1.ipv4.saddr = u32::from_ne_bytes(LOOPBACK_V4);
        tuple.__bindgen_anon_1.ipv4.daddr = u32::from_ne_bytes(LOOPBACK_V4);
        tuple.__bindgen_anon_1.ipv4.dport = listener.to_be();
        V4_LENGTH
    } else {
        tuple.__bindgen_anon_1.ipv6.saddr = words(LOOPBACK_V6);
        tuple.__bindgen_anon_1.ipv6.daddr = words(LOOPBACK_V6);
        tuple.__bindgen_anon_1.ipv6.dport = listener.to_be();
        size_of::<bpf_sock_tuple>() as u32
    };
    // SAFETY: the kernel's context, and a tuple that lives during the call. What is found is given back at once.
    unsafe {
        let socket = bpf_sk_lookup_udp(addr.cast(), from_mut(&mut tuple), length, OWN_NAMESPACE, 0);
        if socket.is_null() {
            return false;
        }
        bpf_sk_release(socket.cast());
    }
    true
}
