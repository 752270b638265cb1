//! The life of a bypassed TCP connection, which nobody but the kernel sees: from `connect()` to its end. Called by connect, by
//! the packet programs for segments that open or end a connection, and by `sock_release`. What is over is decided in `lifetime`.
//!
//! Nothing is done for other segments: what a connection carried is in the kernel's own figures, and read at its end.

use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use agent_common::{Bypassed, Decision, Endpoint, Figures};
use agent_ebpf::{
    backstop::TCP_SYN_SENT,
    header::{FIN, RST},
    lifetime::{self, FIN_RECEIVED, FIN_SENT, RESET},
};
use aya_ebpf::{
    bindings::{bpf_sock, bpf_tcp_sock},
    helpers::{bpf_ktime_get_ns, generated::bpf_tcp_sock as tcp_sock},
    programs::{SockAddrContext, SockContext},
};

use crate::{
    events,
    maps::{self, BYPASSED, POLICY},
    packet::{Full, Segment},
    process,
};

/// Return value of `sock_release`: go on.
const PASS: i32 = 1;

/// `connect()`: a connection of `socket` goes to `destination` directly.
#[inline(always)]
pub(crate) fn opens(ctx: &SockAddrContext, decision: Decision, socket: *mut bpf_sock, destination: Endpoint) {
    // SAFETY: a plain helper.
    let now = unsafe { bpf_ktime_get_ns() };
    let bypassed = Bypassed {
        // SAFETY: the kernel's context.
        cookie: unsafe { maps::socket_cookie(ctx.sock_addr.cast()) },
        opened: now,
        established: 0,
        figures: Figures::NONE,
        decision: decision as u32,
        workload: POLICY.get().workload(),
        process: process::current(),
        destination,
        marks: [0; 8],
    };
    if BYPASSED.set(socket, bypassed) {
        events::opened(&bypassed);
    } else {
        maps::count(Decision::EventLost);
    }
}

/// A segment leaves, with a FIN or a reset.
#[inline(always)]
pub(crate) fn leaves(socket: Full, segment: Segment) {
    let Some((bypassed, tcp)) = of(socket) else { return };
    // SAFETY: live for as long as the program runs.
    let figures = unsafe { &mut (*bypassed).figures };
    describe(tcp, figures);
    // What the others write meanwhile are other fields.
    let marks = marks(bypassed);
    if marks & FIN_RECEIVED == 0 {
        figures.received = tcp.bytes_received;
    }
    let resets = segment.flags & RST != 0;
    if !resets || marks & FIN_SENT == 0 {
        let end = if resets { tcp.snd_nxt } else { segment.end };
        figures.sent = lifetime::length(lifetime::without_syn(tcp.bytes_acked), tcp.snd_una, end);
    }
    mark(bypassed, if resets { RESET } else { FIN_SENT });
}

/// A segment arrives, with a FIN, a reset, or SYN and ACK.
#[inline(always)]
pub(crate) fn arrives(socket: Full, segment: Segment) {
    let Some((bypassed, tcp)) = of(socket) else { return };
    // SAFETY: live for as long as the program runs.
    let figures = unsafe { &mut (*bypassed).figures };
    let opening = socket.class().state == TCP_SYN_SENT;
    let resets = segment.flags & RST != 0;
    if opening && !resets {
        // SAFETY: a plain helper; the pointer as above.
        unsafe { (*bypassed).established = bpf_ktime_get_ns() };
        return;
    }
    // RFC 9293 §3.10.7.4: a reset that is not exactly in sequence ends nothing.
    if resets && !opening && segment.sequence != tcp.rcv_nxt {
        return;
    }
    let marks = marks(bypassed);
    if segment.flags & (RST | FIN) == 0 {
        return;
    }
    describe(tcp, figures);
    if marks & FIN_RECEIVED == 0 {
        figures.received = lifetime::length(tcp.bytes_received, tcp.rcv_nxt, segment.end);
    }
    if marks & FIN_SENT == 0 {
        figures.sent = lifetime::length(lifetime::without_syn(tcp.bytes_acked), tcp.snd_una, tcp.snd_nxt);
    }
    mark(bypassed, if resets { RESET } else { FIN_RECEIVED });
}

/// The last process closes a socket.
#[inline(always)]
pub(crate) fn released(ctx: &SockContext) -> i32 {
    // Not needed here, but every program refers to it.
    let _ = POLICY.get();
    let socket = ctx.sock;
    // SAFETY: the kernel's context, at its fixed offset.
    let state = unsafe { read_volatile(addr_of!((*socket).state)) };
    if let Some(bypassed) = BYPASSED.pointer(socket) {
        mark(bypassed, lifetime::release(state));
    }
    PASS
}

/// What is remembered of a packet's socket, if it is bypassed, with the kernel's figures.
#[inline(always)]
fn of(socket: Full) -> Option<(*mut Bypassed, &'static bpf_tcp_sock)> {
    let socket = socket.pointer()?;
    let bypassed = BYPASSED.pointer(socket)?;
    // SAFETY: a full socket, not null. The figures live as long as the program runs.
    let tcp = unsafe { tcp_sock(socket).as_ref() }?;
    Some((bypassed, tcp))
}

/// The figures that are as they are at any time.
#[inline(always)]
fn describe(tcp: &bpf_tcp_sock, figures: &mut Figures) {
    // The kernel keeps eighths.
    figures.rtt_us = tcp.srtt_us >> 3;
    figures.retransmits = tcp.total_retrans;
    figures.segments_sent = tcp.segs_out;
    figures.segments_received = tcp.segs_in;
}

/// What has happened to it.
#[inline(always)]
fn marks(bypassed: *mut Bypassed) -> u64 {
    // SAFETY: live for as long as the program runs.
    u64::from_le_bytes(unsafe { read_volatile(addr_of!((*bypassed).marks)) })
}

/// Remembers what has happened, and tells the agent if the connection is over with it.
#[inline(always)]
fn mark(bypassed: *mut Bypassed, mark: u64) {
    let before = marks(bypassed);
    // SAFETY: as above; one of the eight bytes, which changes at once.
    unsafe { write_volatile(addr_of_mut!((*bypassed).marks).cast::<u8>().add(lifetime::byte_of(mark)), 1) };
    if lifetime::ends(before, mark) {
        // SAFETY: as above.
        events::closed(unsafe { &*bypassed });
    }
}
