//! `bind4` and `bind6`: refuse the sockets by which a workload would send from the node's network. What is decided is in `socket_class`.
//! The kernel asks for sockets of processes and for those that it makes in their calls; which port is bound is nobody's business here.

use core::ptr::{addr_of, read_volatile};

use agent_common::Endpoint;
use agent_ebpf::socket_class::bound_in;
use aya_ebpf::{helpers::generated::bpf_get_netns_cookie, programs::SockAddrContext};

use crate::{
    connect::{PASS, answer},
    events,
    maps::POLICY,
};

/// Cookie of the node's network namespace. User space sets it before it loads the programs; no namespace has the cookie 0. Its name is
/// `agent_common::names::NODE`.
#[unsafe(no_mangle)]
static EGRET_NODE: u64 = 0;

/// `bind()`.
#[inline(always)]
pub(crate) fn run(ctx: &SockAddrContext) -> i32 {
    let policy = POLICY.get();
    let addr = ctx.sock_addr;
    // SAFETY: the kernel's context, at its fixed offset, and a constant of the object, which user space changes only before it is loaded.
    let (kind, node) =
        unsafe { (read_volatile(addr_of!((*addr).type_)), read_volatile(&raw const EGRET_NODE)) };
    // SAFETY: the kernel's context: the namespace that the socket is in.
    let in_node = unsafe { bpf_get_netns_cookie(addr.cast()) } == node;
    // What may be bound is not counted: it is almost everything.
    let Some(decision) = bound_in(policy, kind, in_node) else { return PASS };
    events::decided(decision, Endpoint::v6([0; 16], 0));
    answer(decision)
}
