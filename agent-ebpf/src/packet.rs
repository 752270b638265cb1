//! `egress` and `ingress`: reads the packet, asks the backstop, and remembers who has spoken from outside. What is decided is in
//! `backstop`; what captured connections need is in `publish`.

use core::{
    ffi::c_void,
    ptr::{addr_of, read_volatile},
};

use agent_common::{Conversation, Decision, Endpoint, Standing};
use agent_ebpf::{
    backstop::{Memory, Packet, Socket, TCP_LISTEN, judge},
    header::{self, Header},
    verdict::{Verdict, verdict},
};
use aya_ebpf::{
    bindings::bpf_sock,
    helpers::{bpf_sk_fullsock, bpf_skb_load_bytes},
    programs::SkBuffContext,
};

use crate::{
    bypassed,
    maps::{self, ACCEPTED, CAPTURED, LET_OUT, POLICY, Reachable},
    publish,
};

/// Return values of the hooks.
pub(crate) const DROP: i32 = 0;
pub(crate) const PASS: i32 = 1;
/// EtherTypes.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
pub(crate) const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// Index of the loopback device; 0 is none.
pub(crate) const LOOPBACK_DEVICE: u32 = 1;
/// `pkt_type` of a packet that the machine sends to itself as well.
const PACKET_LOOPBACK: u32 = 5;
/// Where TCP's flags are in its header.
const TCP_FLAGS: usize = 13;

/// A packet leaves.
#[inline(always)]
pub(crate) fn egress(ctx: &SkBuffContext) -> i32 {
    let Fields { protocol, device, socket } = Fields::read(ctx);
    let policy = POLICY.get();
    let decision = match packet(ctx, protocol, device) {
        None => Decision::DroppedOther,
        Some((packet, segment)) => {
            let context = ctx.skb.skb.cast();
            // SAFETY: the kernel's context.
            let reachable = unsafe { Reachable::new(context) };
            let decision =
                judge(policy, &packet, &socket.class(), &reachable, &Remembered { socket, context });
            if decision == Decision::PassedLoopback {
                publish::publish(policy, &packet, socket);
            }
            if segment.flags & (header::FIN | header::RST) != 0 {
                bypassed::leaves(socket, segment);
            }
            decision
        }
    };
    maps::count(decision);
    if matches!(verdict(decision), Verdict::Refuse(_)) { DROP } else { PASS }
}

/// What is read of a packet that leaves, here and for a guarded parent.
pub(crate) struct Fields {
    pub(crate) protocol: u32,
    pub(crate) device: u32,
    pub(crate) socket: Full,
}

impl Fields {
    #[inline(always)]
    pub(crate) fn read(ctx: &SkBuffContext) -> Self {
        let skb = ctx.skb.skb;
        // SAFETY: the kernel's context, at its fixed offsets; all fields are read before any is used.
        let (protocol, device, socket) = unsafe {
            (
                read_volatile(addr_of!((*skb).protocol)),
                read_volatile(addr_of!((*skb).ifindex)),
                read_volatile(addr_of!((*skb).__bindgen_anon_2.sk)),
            )
        };
        Self { protocol, device, socket: Full::of(socket) }
    }
}

/// A packet that leaves by `device`, and its segment if it is TCP's; None: it cannot be read.
#[inline(always)]
pub(crate) fn packet(ctx: &SkBuffContext, protocol: u32, device: u32) -> Option<(Packet, Segment)> {
    let header = header(ctx, protocol);
    let next = Next::of(ctx, &header);
    if header.length == 0 || next.cut {
        return None;
    }
    let packet = Packet {
        device,
        source: Endpoint::v6(header.source, next.source),
        destination: Endpoint::v6(header.destination, next.destination),
        protocol: u32::from(header.protocol),
        hops: header.hops,
        plain: header.plain,
        detail: next.detail,
        listener_discovery: next.listener_discovery,
    };
    Some((packet, next.segment))
}

/// A packet arrives: never dropped, but its sender may be answered.
///
/// What was heard on this machine only proves nothing: with `IPV6_FREEBIND`, which takes no privilege, a workload can send to
/// itself from any address.
#[inline(always)]
pub(crate) fn ingress(ctx: &SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel's context, at its fixed offsets; all fields are read before any is used.
    let (protocol, device, kind, socket) = unsafe {
        (
            read_volatile(addr_of!((*skb).protocol)),
            read_volatile(addr_of!((*skb).ifindex)),
            read_volatile(addr_of!((*skb).pkt_type)),
            read_volatile(addr_of!((*skb).__bindgen_anon_2.sk)),
        )
    };
    let policy = POLICY.get();
    let header = header(ctx, protocol);
    if !header.plain || (header.protocol != UDP && header.protocol != TCP) {
        return PASS;
    }
    let next = Next::of(ctx, &header);
    if next.cut {
        return PASS;
    }
    // Here: by loopback, or the copy of a multicast packet of our own.
    let outside = device > LOOPBACK_DEVICE && kind != PACKET_LOOPBACK;
    let flags = next.segment.flags;
    if flags & (header::FIN | header::RST) != 0
        || flags & (header::SYN | header::ACK) == header::SYN | header::ACK
    {
        bypassed::arrives(Full::of(socket), next.segment);
    }
    let calls = next.detail & (header::SYN | header::ACK) == header::SYN;
    if header.protocol == TCP && !(calls && outside) {
        if next.detail & header::RST != 0 && device == LOOPBACK_DEVICE {
            let at = Endpoint::v6(header.destination, next.destination);
            publish::withdraw(policy, at, next.source, Full::of(socket));
        }
        return PASS;
    }
    // SAFETY: the kernel's context.
    let cookie = unsafe { maps::socket_cookie(skb.cast()) };
    let conversation = Conversation::new(cookie, Endpoint::v6(header.source, next.source));
    if header.protocol == TCP {
        maps::remember_call(&conversation);
        accept(Full::of(socket));
    } else {
        // Also what was heard here, since `sendto()` is judged by the address, which may be one of this machine's own.
        maps::remember(&conversation, outside);
    }
    PASS
}

/// Somebody outside calls: what this listening socket accepts came from outside. Its connections are made after this, also with
/// Fast Open and SYN cookies, and inherit the mark.
#[inline(always)]
fn accept(socket: Full) {
    if socket.class().state != TCP_LISTEN {
        return;
    }
    if let Some(listener) = socket.pointer() {
        let marked = ACCEPTED.set(listener, 1);
        maps::count(if marked { Decision::Accepted } else { Decision::AcceptFailed });
    }
}

/// The IP header, or [`Header::NONE`].
#[inline(always)]
fn header(ctx: &SkBuffContext, protocol: u32) -> Header {
    match u16::from_be(protocol as u16) {
        IPV4 => {
            let (bytes, read) = load::<{ header::V4_LENGTH }>(ctx, 0);
            if read { Header::v4(&bytes) } else { Header::NONE }
        }
        IPV6 => {
            let (bytes, read) = load::<{ header::V6_LENGTH }>(ctx, 0);
            if read { Header::v6(&bytes) } else { Header::NONE }
        }
        _ => Header::NONE,
    }
}

/// Bytes at an offset, and whether they are there.
#[inline(always)]
fn load<const N: usize>(ctx: &SkBuffContext, offset: u32) -> ([u8; N], bool) {
    let mut bytes = [0; N];
    let to: *mut [u8; N] = &raw mut bytes;
    // SAFETY: the kernel's context, and a buffer of that length.
    let result = unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), offset, to.cast(), N as u32) };
    (bytes, result == 0)
}

/// Where a TCP segment lies in its stream.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    /// Flags of TCP.
    pub(crate) flags: u8,
    /// Sequence number of its first byte.
    pub(crate) sequence: u32,
    /// Of the byte after its last one; a FIN does not count.
    pub(crate) end: u32,
}

/// What the header after the IP header says. Ports in host order.
struct Next {
    source: u16,
    destination: u16,
    /// Flags of TCP, type of an ICMPv6 message.
    detail: u8,
    listener_discovery: bool,
    /// Of TCP; zero of everything else.
    segment: Segment,
    /// The packet ends before it.
    cut: bool,
}

impl Next {
    #[inline(always)]
    fn of(ctx: &SkBuffContext, header: &Header) -> Self {
        let segment = Segment { flags: 0, sequence: 0, end: 0 };
        let mut next =
            Self { source: 0, destination: 0, detail: 0, listener_discovery: false, segment, cut: false };
        if header.protocol == TCP {
            let (tcp, read) = load::<{ header::TCP_LENGTH }>(ctx, header.length);
            next.source = u16::from_be_bytes([tcp[0], tcp[1]]);
            next.destination = u16::from_be_bytes([tcp[2], tcp[3]]);
            next.detail = tcp[TCP_FLAGS];
            let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
            // The length of TCP's header: in words of 4 bytes, in the upper half of its byte.
            let data = ctx.len().wrapping_sub(header.length + u32::from(tcp[12] >> 4) * 4);
            next.segment = Segment { flags: next.detail, sequence, end: sequence.wrapping_add(data) };
            next.cut = !read;
        } else if header.protocol == UDP {
            let ([a, b, c, d], read) = load::<4>(ctx, header.length);
            next.source = u16::from_be_bytes([a, b]);
            next.destination = u16::from_be_bytes([c, d]);
            next.cut = !read;
        } else if header.protocol == ICMPV6 {
            let ([kind], read) = load::<1>(ctx, header.length);
            next.detail = kind;
            next.cut = !read;
        } else if header.may_be_listener_discovery() {
            let (bytes, read) = load::<{ header::HOP_BY_HOP_LENGTH }>(ctx, header.length);
            next.listener_discovery = read && header::is_listener_discovery(&bytes);
        }
        next
    }
}

/// The socket that a packet belongs to; null: none, or only a remnant of one.
#[derive(Clone, Copy)]
pub(crate) struct Full(*mut bpf_sock);

impl Full {
    #[inline(always)]
    fn of(socket: *mut bpf_sock) -> Self {
        if socket.is_null() {
            return Self(socket);
        }
        // SAFETY: the socket of the context, not null.
        Self(unsafe { bpf_sk_fullsock(socket) })
    }

    /// To ask socket storage by.
    #[inline(always)]
    pub(crate) fn pointer(self) -> Option<*mut bpf_sock> {
        (!self.0.is_null()).then_some(self.0)
    }

    #[inline(always)]
    pub(crate) fn class(self) -> Socket {
        if self.0.is_null() {
            return Socket { kind: 0, protocol: 0, state: 0 };
        }
        // SAFETY: a full socket, not null; its fields at their fixed offsets.
        unsafe {
            Socket {
                kind: read_volatile(addr_of!((*self.0).type_)),
                protocol: read_volatile(addr_of!((*self.0).protocol)),
                state: read_volatile(addr_of!((*self.0).state)),
            }
        }
    }
}

/// What the maps hold of the socket.
struct Remembered {
    socket: Full,
    /// The kernel's context of the program, which names the same socket.
    context: *mut c_void,
}

impl Memory for Remembered {
    #[inline(always)]
    fn captured(&self) -> bool {
        !self.socket.0.is_null() && CAPTURED.get(self.socket.0).is_some()
    }

    #[inline(always)]
    fn accepted(&self) -> bool {
        !self.socket.0.is_null() && ACCEPTED.get(self.socket.0).is_some()
    }

    #[inline(always)]
    fn older(&self) -> Option<Standing> {
        // SAFETY: the kernel's context.
        unsafe { maps::older(self.context) }
    }

    #[inline(always)]
    fn let_out(&self) -> bool {
        !self.socket.0.is_null() && LET_OUT.get(self.socket.0).is_some()
    }
}
