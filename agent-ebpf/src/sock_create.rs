//! `sock_create`: refuses the sockets that nothing else here could judge. What is decided is in `socket_class`. The kernel
//! asks for IPv4 and IPv6 sockets of processes only; AF_PACKET is never seen here.

use core::ptr::{addr_of, read_volatile};

use agent_common::Endpoint;
use agent_ebpf::socket_class::socket_class;
use aya_ebpf::programs::SockContext;

use crate::{
    connect::{PASS, answer},
    events,
    maps::POLICY,
};

/// `socket()`.
#[inline(always)]
pub(crate) fn run(ctx: &SockContext) -> i32 {
    // Not needed here, but every program refers to it.
    let _ = POLICY.get();
    let socket = ctx.sock;
    // SAFETY: the kernel's context, at its fixed offsets.
    let (kind, protocol) =
        unsafe { (read_volatile(addr_of!((*socket).type_)), read_volatile(addr_of!((*socket).protocol))) };
    // What may be made is not counted: it is almost everything.
    let Some(decision) = socket_class(kind, protocol) else { return PASS };
    events::decided(decision, Endpoint::v6([0; 16], 0));
    answer(decision)
}
