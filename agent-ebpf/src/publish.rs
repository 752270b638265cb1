//! Publishes the original destination of a captured connection with its SYN, and takes it back when nobody listens. Called by
//! the packet programs, which see both on loopback: a `sock_ops` program would see them too, but one that is attached anywhere
//! costs every TCP connection of the machine several calls.
//!
//! Everything else of a connection's life is left alone: the agent takes the entry when it accepts. An entry must not be
//! deleted when the connection closes: a client may connect, send and close before it is accepted.

use agent_common::{Captured, Decision, Endpoint, Original, OriginalKey, Policy};
use agent_ebpf::{
    backstop::{Packet, TCP_SYN_SENT},
    header::{ACK, SYN},
};
use aya_ebpf::helpers::bpf_ktime_get_ns;

use crate::{
    maps::{self, CAPTURED, ORIGINAL},
    packet::{Full, TCP},
};

/// Insert or replace: an entry left under a reused port is stale.
const BPF_ANY: u64 = 0;

/// A packet leaves by loopback, and has not been delivered yet: the entry is there when the agent accepts. A SYN that is sent
/// again publishes again; if the agent has taken the entry already, the second one goes with the sweep.
#[inline(always)]
pub(crate) fn publish(policy: &Policy, packet: &Packet, socket: Full) {
    if packet.protocol != u32::from(TCP) || packet.detail & (SYN | ACK) != SYN {
        return;
    }
    // By the packet's source, as the listener will see it.
    let Some((key, captured)) = entry(policy, socket, packet.source, packet.destination.port()) else {
        return;
    };
    // SAFETY: a plain helper.
    let now = unsafe { bpf_ktime_get_ns() };
    match ORIGINAL.insert(key, Original::new(captured.destination(), captured.process(), now), BPF_ANY) {
        Ok(()) => maps::count(Decision::Published),
        // Full. The SYN goes on: the agent finds no entry, resets the connection, and says why. Dropped, it would be sent again
        // for two minutes before the application hears of it.
        Err(_) => maps::count(Decision::PublishFailed),
    }
}

/// A reset arrives by loopback, from `from` at `at`: if it answers a SYN, nobody will take the entry.
#[inline(always)]
pub(crate) fn withdraw(policy: &Policy, at: Endpoint, from: u16, socket: Full) {
    if socket.class().state != TCP_SYN_SENT {
        return;
    }
    if let Some((key, _)) = entry(policy, socket, at, from)
        && ORIGINAL.remove(key).is_ok()
    {
        maps::count(Decision::Withdrawn);
    }
}

/// Under what the destination of a captured socket is published, and what is: if it was captured by this cgroup's
/// workload, and the packet is between `source` and the listener that it was sent to.
#[inline(always)]
fn entry(
    policy: &Policy,
    socket: Full,
    source: Endpoint,
    listener: u16,
) -> Option<(OriginalKey, &'static Captured)> {
    let workload = policy.workload();
    let captured = CAPTURED.get(socket.pointer()?)?;
    // What goes to a DNS listener is not published: the listener knows the resolver by its port, and the same source may be
    // in use for a captured connection.
    let ours =
        captured.workload() == workload && captured.listener() == listener && !captured.is_at_resolver();
    ours.then(|| (OriginalKey::new(workload, source, listener), captured))
}
