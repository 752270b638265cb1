//! `sock_ops`: publishes the original destination under the connection's source before the SYN leaves, when the source
//! port is known, and takes it back when the connection fails. Everything else of a connection's life is left alone: the
//! agent takes the entry when it accepts. An entry must not be deleted when the connection closes: a client may connect,
//! send and close before it is accepted.

use core::ptr::{addr_of, read_volatile};

use agent_common::{Decision, Endpoint, Original, OriginalKey};
use aya_ebpf::{
    bindings::{BPF_SOCK_OPS_STATE_CB_FLAG, bpf_sock_ops},
    helpers::{bpf_ktime_get_ns, bpf_sock_ops_cb_flags_set},
    programs::SockOpsContext,
};

use crate::{
    connect::bytes,
    maps::{self, ACCEPTED, CAPTURED, ORIGINAL, POLICY},
};

const BPF_SOCK_OPS_TCP_CONNECT_CB: u32 = 3;
const BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB: u32 = 5;
const BPF_SOCK_OPS_STATE_CB: u32 = 10;
const TCP_SYN_SENT: u32 = 2;
const TCP_CLOSE: u32 = 7;
const AF_INET: u32 = 2;
/// Insert or replace: an entry left under a reused port is stale.
const BPF_ANY: u64 = 0;
const DONE: u32 = 1;

/// Called by the kernel for every event of every TCP socket of the cgroup.
#[inline(always)]
pub(crate) fn run(ctx: &SockOpsContext) -> u32 {
    let ops = ctx.ops;
    // SAFETY: the kernel's context, at its fixed offsets. All fields are read before any is used: loads from different
    // branches would be merged into one with a computed address, which the verifier refuses.
    let (op, socket, source, old, new) = unsafe {
        (
            read_volatile(addr_of!((*ops).op)),
            read_volatile(addr_of!((*ops).__bindgen_anon_2.sk)),
            source(ops),
            read_volatile(addr_of!((*ops).__bindgen_anon_1.args[0])),
            read_volatile(addr_of!((*ops).__bindgen_anon_1.args[1])),
        )
    };
    let workload = POLICY.get().workload();
    if op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB && !socket.is_null() {
        // Before the first packet of the connection but the SYN-ACK, with Fast Open before that, too.
        let marked = ACCEPTED.set(socket, 1);
        maps::count(if marked { Decision::Accepted } else { Decision::AcceptFailed });
        return DONE;
    }
    let failed = op == BPF_SOCK_OPS_STATE_CB && old == TCP_SYN_SENT && new == TCP_CLOSE;
    if socket.is_null() || (op != BPF_SOCK_OPS_TCP_CONNECT_CB && !failed) {
        return DONE;
    }
    let Some(captured) = CAPTURED.get(socket).filter(|captured| captured.workload() == workload) else {
        return DONE;
    };
    let key = OriginalKey::new(workload, source, captured.listener());
    if failed {
        if ORIGINAL.remove(key).is_ok() {
            maps::count(Decision::Withdrawn);
        }
        return DONE;
    }
    // SAFETY: plain helpers; the context is the kernel's. Without the flag a failed connection's entry stays for the sweep.
    let now = unsafe {
        let _ = bpf_sock_ops_cb_flags_set(ops, BPF_SOCK_OPS_STATE_CB_FLAG.cast_signed());
        bpf_ktime_get_ns()
    };
    match ORIGINAL.insert(key, Original::new(captured.destination(), now), BPF_ANY) {
        Ok(()) => maps::count(Decision::Published),
        // Full. Nothing can be refused here any more; the agent finds no entry and resets the connection.
        Err(_) => maps::count(Decision::PublishFailed),
    }
    DONE
}

/// The socket's own address and port.
///
/// # Safety
/// `ops` is the kernel's context.
#[inline(always)]
unsafe fn source(ops: *mut bpf_sock_ops) -> Endpoint {
    // SAFETY: the context's fields at their fixed offsets.
    unsafe {
        let family = read_volatile(addr_of!((*ops).family));
        let v4 = read_volatile(addr_of!((*ops).local_ip4));
        let v6 = [
            read_volatile(addr_of!((*ops).local_ip6[0])),
            read_volatile(addr_of!((*ops).local_ip6[1])),
            read_volatile(addr_of!((*ops).local_ip6[2])),
            read_volatile(addr_of!((*ops).local_ip6[3])),
        ];
        // This port, other than every other in the context, is in host order.
        let port = read_volatile(addr_of!((*ops).local_port)) as u16;
        if family == AF_INET { Endpoint::v4(v4.to_ne_bytes(), port) } else { Endpoint::v6(bytes(v6), port) }
    }
}
