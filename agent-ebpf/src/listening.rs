//! Whether anybody is at a workload's listeners: asked by the connect hooks for workloads whose policy lets them out while the
//! agent is down, and for no others; by the sendmsg hooks for queries while DNS is captured. A process that is stopped still listens.

use core::ptr::{addr_of, read_volatile};

use aya_ebpf::{
    bindings::{
        bpf_sock_addr, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as TupleV4,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as TupleV6,
    },
    helpers::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release},
};

use crate::connect::{LOOPBACK_V4, LOOPBACK_V6, words};

/// `BPF_F_CURRENT_NETNS`: the network namespace of the socket that connects.
const OWN_NAMESPACE: u64 = u64::MAX;
const TCP_LISTEN: u32 = 10;

/// Whether a connection to this port of loopback would be accepted.
///
/// # Safety
/// `addr` is the kernel's context.
#[inline(always)]
pub(crate) unsafe fn listens(addr: *mut bpf_sock_addr, v4: bool, port: u16) -> bool {
    let (mut tuple, size) = tuple(v4, port);
    // SAFETY: the kernel's context, and a tuple of that size; what is found is given back.
    unsafe {
        let found = bpf_sk_lookup_tcp(addr.cast(), &raw mut tuple, size, OWN_NAMESPACE, 0);
        if found.is_null() {
            return false;
        }
        let state = read_volatile(addr_of!((*found).state));
        bpf_sk_release(found.cast());
        state == TCP_LISTEN
    }
}

/// Whether a datagram to this port of loopback would be received.
///
/// # Safety
/// `addr` is the kernel's context.
#[inline(always)]
pub(crate) unsafe fn receives(addr: *mut bpf_sock_addr, v4: bool, port: u16) -> bool {
    let (mut tuple, size) = tuple(v4, port);
    // SAFETY: as above.
    unsafe {
        let found = bpf_sk_lookup_udp(addr.cast(), &raw mut tuple, size, OWN_NAMESPACE, 0);
        if found.is_null() {
            return false;
        }
        bpf_sk_release(found.cast());
    }
    true
}

/// From nowhere, so that only a socket that waits for anybody can match, to a port of loopback (host order); with its size.
#[inline(always)]
fn tuple(v4: bool, port: u16) -> (bpf_sock_tuple, u32) {
    let (to, size) = if v4 {
        let daddr = u32::from_ne_bytes(LOOPBACK_V4);
        let tuple = TupleV4 { saddr: 0, daddr, sport: 0, dport: port.to_be() };
        (bpf_sock_tuple__bindgen_ty_1 { ipv4: tuple }, size_of::<TupleV4>())
    } else {
        let tuple = TupleV6 { saddr: [0; 4], daddr: words(LOOPBACK_V6), sport: 0, dport: port.to_be() };
        (bpf_sock_tuple__bindgen_ty_1 { ipv6: tuple }, size_of::<TupleV6>())
    };
    (bpf_sock_tuple { __bindgen_anon_1: to }, size as u32)
}
