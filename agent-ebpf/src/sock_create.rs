//! `sock_create`: refuses the sockets that nothing else here could judge. What is decided is in `socket_class`. The kernel
//! asks for IPv4 and IPv6 sockets of processes only; AF_PACKET is never seen here.

use core::ptr::{addr_of, read_volatile};

use agent_ebpf::socket_class::socket_class;
use aya_ebpf::programs::SockContext;

use crate::{connect::answer, maps::POLICY};

/// Return value of the hook: go on.
const PASS: i32 = 1;

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
    socket_class(kind, protocol).map_or(PASS, answer)
}
