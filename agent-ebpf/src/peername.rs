//! `getpeername4` and `getpeername6`: the application keeps seeing the address that it dialled. Decides nothing. (MPTCP
//! sockets show the listener: the storage sits on the subflow, which this hook does not see.)

use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use agent_common::{Captured, Decision};
use aya_ebpf::{bindings::bpf_sock_addr, programs::SockAddrContext};

use crate::{
    connect::write_v6,
    maps::{self, CAPTURED, POLICY},
};

/// The only return value that the kernel accepts here.
const DONE: i32 = 1;

/// `getpeername()` of an IPv4 socket.
#[inline(always)]
pub(crate) fn v4(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    if let Some(captured) = captured(addr)
        && let Some(address) = captured.destination().address_v4()
    {
        // SAFETY: both fields may be written by this hook.
        unsafe {
            write_volatile(addr_of_mut!((*addr).user_ip4), u32::from_ne_bytes(address));
            write_volatile(addr_of_mut!((*addr).user_port), u32::from(captured.destination().port().to_be()));
        }
        maps::count(Decision::PeerRestored);
    }
    DONE
}

/// `getpeername()` of an IPv6 socket; a v4-mapped destination is shown v4-mapped, as without us.
#[inline(always)]
pub(crate) fn v6(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    if let Some(captured) = captured(addr) {
        // SAFETY: all fields may be written by this hook.
        unsafe {
            write_v6(addr, captured.destination().address());
            write_volatile(addr_of_mut!((*addr).user_port), u32::from(captured.destination().port().to_be()));
        }
        maps::count(Decision::PeerRestored);
    }
    DONE
}

/// What the socket remembers, if this cgroup's workload captured it.
#[inline(always)]
fn captured(addr: *mut bpf_sock_addr) -> Option<&'static Captured> {
    let workload = POLICY.get().workload();
    // SAFETY: the kernel's context; the socket is never null in this hook (Linux 5.8).
    let socket = unsafe { read_volatile(addr_of!((*addr).__bindgen_anon_1.sk)) };
    CAPTURED.get(socket).filter(|captured| captured.workload() == workload)
}
