//! Tells the agent what it could not see: through its ring, never waiting. Called by the hooks of bypassed connections and by those
//! that refuse.

use core::ptr;

use agent_common::{Bypassed, Decision, Endpoint, Event, EventKind, Figures, names};
use agent_ebpf::verdict::is_told;
use aya_ebpf::{
    btf_maps::RingBuf,
    helpers::{bpf_ktime_get_ns, generated::bpf_ringbuf_query},
    macros::btf_map,
};

use crate::{
    maps::{self, POLICY},
    process,
};

/// Ring. Written by connect, sendmsg, `sock_create`, bind, egress, ingress and `sock_release`; read by the agent that has loaded the programs.
#[btf_map(name = "egret_events")]
static EVENTS: RingBuf<Event, { names::EVENTS_BYTES }> = RingBuf::new();

const BPF_RB_AVAIL_DATA: u64 = 0;

/// A bypassed connection is being opened.
#[inline(always)]
pub(crate) fn opened(socket: &Bypassed) {
    tell(EventKind::Opened, socket);
}

/// A bypassed connection is over.
#[inline(always)]
pub(crate) fn closed(socket: &Bypassed) {
    tell(EventKind::Closed, socket);
}

/// Field by field into the ring: the stack of a program has no room for an event.
#[inline(always)]
fn tell(kind: EventKind, socket: &Bypassed) {
    let Some(mut entry) = EVENTS.reserve(0) else {
        maps::count(Decision::EventLost);
        return;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the entry's memory; all fields are written.
    unsafe {
        (*event).cookie = socket.cookie;
        (*event).at = bpf_ktime_get_ns();
        (*event).opened = socket.opened;
        (*event).established = socket.established;
        (*event).figures = socket.figures;
        (*event).kind = kind as u32;
        (*event).decision = socket.decision;
        (*event).workload = socket.workload;
        (*event).process = socket.process;
        (*event).destination = socket.destination;
        (*event).reserved = 0;
    }
    entry.submit(0);
}

/// A call for `destination` was decided: if it is refused, the agent is told.
///
/// Whoever is refused may try again as fast as he can: refusals fill half of the ring at most.
#[inline(always)]
pub(crate) fn decided(decision: Decision, destination: Endpoint) {
    let workload = POLICY.get().workload();
    if workload == 0 || !is_told(decision) {
        return;
    }
    let ring = ptr::from_ref(&EVENTS).cast_mut();
    // SAFETY: the ring, and a number.
    if unsafe { bpf_ringbuf_query(ring.cast(), BPF_RB_AVAIL_DATA) } > names::EVENTS_BYTES as u64 / 2 {
        maps::count(Decision::EventLost);
        return;
    }
    let Some(mut entry) = EVENTS.reserve(0) else {
        maps::count(Decision::EventLost);
        return;
    };
    // SAFETY: a plain helper.
    let now = unsafe { bpf_ktime_get_ns() };
    let event = entry.as_mut_ptr();
    // SAFETY: the entry's memory; all fields are written.
    unsafe {
        (*event).cookie = 0;
        (*event).at = now;
        (*event).opened = now;
        (*event).established = 0;
        (*event).figures = Figures::NONE;
        (*event).kind = EventKind::Refused as u32;
        (*event).decision = decision as u32;
        (*event).workload = workload;
        (*event).process = process::current();
        (*event).destination = destination;
        (*event).reserved = 0;
    }
    entry.submit(0);
}
