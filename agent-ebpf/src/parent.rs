//! Strict start: the programs on a guarded parent, which run for everybody below it, after those of an enrolled child. What is
//! decided is in `guard`. They only ask whether a cgroup is classified, never who it is.

use core::ptr::{addr_of, read_volatile};

use agent_common::{Decision, Endpoint};
use agent_ebpf::guard;
use aya_ebpf::{
    helpers::{bpf_get_current_ancestor_cgroup_id, bpf_skb_ancestor_cgroup_id},
    programs::{SkBuffContext, SockAddrContext},
};

use crate::{
    connect::{self, answer, bytes, read_v6},
    maps::{self, GUARD, Reachable},
    packet, sendmsg,
};

/// `connect()` of an IPv4 socket.
#[inline(always)]
pub(crate) fn connect4(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: the kernel's context, at its fixed offsets.
    let (ip, fields) = unsafe { (read_volatile(addr_of!((*addr).user_ip4)), connect::Fields::read(addr)) };
    connect(ctx, &fields, Endpoint::v4(ip.to_ne_bytes(), fields.port))
}

/// `connect()` of an IPv6 socket.
#[inline(always)]
pub(crate) fn connect6(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: as in `connect4`.
    let (words, fields) = unsafe { (read_v6(addr), connect::Fields::read(addr)) };
    connect(ctx, &fields, Endpoint::v6(bytes(words), fields.port))
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, fields: &connect::Fields, destination: Endpoint) -> i32 {
    // SAFETY: the kernel's context.
    let reachable = unsafe { Reachable::new(ctx.sock_addr.cast()) };
    refuse(guard::connect(&fields.attempt(destination), caller_is_classified, &reachable))
}

/// UDP to an IPv4 address.
#[inline(always)]
pub(crate) fn sendmsg4(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: as in `connect4`.
    let (ip, port) = unsafe { (read_volatile(addr_of!((*addr).user_ip4)), sendmsg::port(addr)) };
    datagram(ctx, &Endpoint::v4(ip.to_ne_bytes(), port))
}

/// UDP to an IPv6 address.
#[inline(always)]
pub(crate) fn sendmsg6(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: as in `connect4`.
    let (words, port) = unsafe { (read_v6(addr), sendmsg::port(addr)) };
    datagram(ctx, &Endpoint::v6(bytes(words), port))
}

#[inline(always)]
fn datagram(ctx: &SockAddrContext, destination: &Endpoint) -> i32 {
    // SAFETY: the kernel's context.
    let reachable = unsafe { Reachable::new(ctx.sock_addr.cast()) };
    refuse(guard::datagram(destination, caller_is_classified, &reachable))
}

/// A packet leaves. Asks for the cgroup of the socket: the current task may be anybody here.
#[inline(always)]
pub(crate) fn egress(ctx: &SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    let packet::Fields { protocol, device, socket } = packet::Fields::read(ctx);
    // SAFETY: the kernel's context. A level that the socket's cgroup does not have gives 0.
    let ancestor = |level: u32| unsafe { bpf_skb_ancestor_cgroup_id(skb, level.cast_signed()) };
    if maps::classified(GUARD.get(), ancestor) || device == packet::LOOPBACK_DEVICE {
        return packet::PASS;
    }
    let decision = match packet::packet(ctx, protocol, device) {
        None => Some(Decision::GuardDropped),
        Some((packet, _)) => {
            // SAFETY: the kernel's context.
            let reachable = unsafe { Reachable::new(skb.cast()) };
            guard::packet(&packet, &socket.class(), &reachable)
        }
    };
    match decision {
        None => packet::PASS,
        Some(decision) => {
            maps::count(decision);
            packet::DROP
        }
    }
}

/// Whether the cgroup of the current task is classified. These hooks cannot ask for the socket's; should the two differ, egress
/// has the last word.
#[inline(always)]
fn caller_is_classified() -> bool {
    // SAFETY: no arguments but a number. A level that the task's cgroup does not have gives 0.
    let ancestor = |level: u32| unsafe { bpf_get_current_ancestor_cgroup_id(level.cast_signed()) };
    maps::classified(GUARD.get(), ancestor)
}

/// Counts a refusal and tells the kernel. What goes on is not counted: it is almost everything.
#[inline(always)]
fn refuse(decision: Option<Decision>) -> i32 {
    decision.map_or(connect::PASS, answer)
}
