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
    let (ip, ports) = unsafe { (read_volatile(addr_of!((*addr).user_ip4)), Ports::read(addr)) };
    decide(ports.own, &Endpoint::v4(ip.to_ne_bytes(), ports.destination))
}

/// To an IPv6 address.
#[inline(always)]
pub(crate) fn v6(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: as in `v4`.
    let (words, ports) = unsafe { (read_v6(addr), Ports::read(addr)) };
    decide(ports.own, &Endpoint::v6(bytes(words), ports.destination))
}

/// In host order.
struct Ports {
    own: u16,
    destination: u16,
}

impl Ports {
    /// # Safety
    /// `addr` is the kernel's context.
    #[inline(always)]
    unsafe fn read(addr: *mut bpf_sock_addr) -> Self {
        // SAFETY: the context's fields at their fixed offsets; the socket is never null in these hooks (Linux 5.3).
        unsafe {
            let destination = u16::from_be(read_volatile(addr_of!((*addr).user_port)) as u16);
            let socket = read_volatile(addr_of!((*addr).__bindgen_anon_1.sk));
            // In host order, other than all others. The kernel has chosen it before this hook runs.
            let own = read_volatile(addr_of!((*socket).src_port)) as u16;
            Self { own, destination }
        }
    }
}

#[inline(always)]
fn decide(port: u16, destination: &Endpoint) -> i32 {
    let policy = POLICY.get();
    answer(datagram(policy, port, destination, &Reachable { workload: policy.workload() }))
}
