//! `link_out` and `link_in`: the lock at the host's side of a workload's link. Reads the frame, asks `link`, remembers who has
//! spoken. What is decided is in `link`.
//!
//! Frames may be larger than the link (segmentation is left to the device) and need not be in one piece, so bytes are
//! copied out of them, counted from the network header: a link need not have a link-layer header.

use core::ptr::{addr_of, read_volatile};

use agent_ebpf::{
    header::{self, Header},
    link::{self, Frame, Kind, Lesson, Quote},
    verdict::{Verdict, verdict},
};
use aya_ebpf::{helpers::bpf_skb_load_bytes_relative, programs::TcContext};

use crate::{
    link_maps::{FRAME, Locked},
    maps::{self, Reachable},
};

/// Return values: the next program decides, which is the way of the packet without us (`TCX_NEXT`); drop (`TCX_DROP`).
const NEXT: i32 = -1;
const DROP: i32 = 2;
/// `BPF_HDR_START_NET`.
const FROM_NETWORK_HEADER: u32 = 1;
/// EtherTypes.
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const ICMPV6: u8 = 58;
/// Where the flags and offset of a fragment are in an IPv4 header.
const FRAGMENT_OFFSET: u32 = 6;
/// Where TCP's flags are in its header.
const TCP_FLAGS: usize = 13;
/// Length of the header of an ICMP error, after which the packet begins that it is about.
const ICMP_HEADER: u32 = 8;

/// A frame comes from the workload: it is let through or dropped.
#[inline(always)]
pub(crate) fn out(ctx: &TcContext) -> i32 {
    let Some(frame) = read(ctx) else { return DROP };
    let link = Locked::new(frame.device);
    // SAFETY: the kernel's context.
    let reachable = unsafe { Reachable::new(ctx.skb.skb.cast()) };
    let decision = link::judge(frame, &reachable, &link);
    maps::count(decision);
    if matches!(verdict(decision), Verdict::Refuse(_)) { DROP } else { NEXT }
}

/// A frame goes to the workload: never dropped, but its sender may be answered.
#[inline(always)]
pub(crate) fn into(ctx: &TcContext) -> i32 {
    let Some(frame) = read(ctx) else { return NEXT };
    let link = Locked::new(frame.device);
    let (local, peer) = link::ends(frame);
    match link::lesson(frame) {
        Lesson::Nothing => {}
        Lesson::Heard => link.remember(frame.header.protocol, local, peer),
        Lesson::GoesOn => {
            link.goes_on(frame.header.protocol, local, peer, |heard| link::proves(frame, heard));
        }
        Lesson::Neighbour => link.remember_neighbour(frame.header.source),
    }
    NEXT
}

/// What is read of the frame, in memory of this CPU. None: never.
#[inline(always)]
fn read(ctx: &TcContext) -> Option<&'static Frame> {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel's context, at its fixed offsets; all fields are read before any is used.
    let (protocol, device, length, vlan) = unsafe {
        (
            read_volatile(addr_of!((*skb).protocol)),
            read_volatile(addr_of!((*skb).ifindex)),
            read_volatile(addr_of!((*skb).len)),
            read_volatile(addr_of!((*skb).vlan_present)),
        )
    };
    // A tag has been taken out of the frame; with it the frame is for another device than it seems.
    let protocol = if vlan == 0 { u16::from_be(protocol as u16) } else { 0 };
    let header = match protocol {
        IPV4 => {
            let (bytes, read) = load::<{ header::V4_LENGTH }>(ctx, 0);
            if read { Header::v4(&bytes) } else { Header::NONE }
        }
        IPV6 => {
            let (bytes, read) = load::<{ header::V6_LENGTH }>(ctx, 0);
            if read { Header::v6(&bytes) } else { Header::NONE }
        }
        _ => Header::NONE,
    };
    let kind = match protocol {
        IPV4 => Kind::V4,
        IPV6 => Kind::V6,
        ARP if is_arp(ctx, length) => Kind::Arp,
        _ => Kind::Other,
    };
    let place = FRAME.get_ptr_mut(0)?;
    // SAFETY: the kernel gave the pointer to this CPU's memory, and no other program of a link runs on it before this one ends.
    let frame = unsafe {
        place.write(Frame {
            device,
            kind,
            header,
            fragment: is_fragment(ctx, kind, &header),
            cut: false,
            source: 0,
            destination: 0,
            detail: 0,
            sequence: 0,
            acknowledgement: 0,
            listener_discovery: false,
            quote: Quote::NONE,
        });
        &mut *place
    };
    read_next(ctx, frame);
    Some(frame)
}

#[inline(always)]
fn is_arp(ctx: &TcContext, length: u32) -> bool {
    let (bytes, read) = load::<6>(ctx, 0);
    read && link::is_arp(&bytes, length)
}

#[inline(always)]
fn is_fragment(ctx: &TcContext, kind: Kind, header: &Header) -> bool {
    if matches!(kind, Kind::V4) {
        let (bytes, read) = load::<2>(ctx, FRAGMENT_OFFSET);
        read && link::is_fragment(bytes)
    } else {
        header.protocol == FRAGMENT
    }
}

/// The header after the IP header.
#[inline(always)]
fn read_next(ctx: &TcContext, frame: &mut Frame) {
    let at = frame.header.length;
    if frame.fragment {
        if frame.header.protocol == FRAGMENT {
            // Its first byte is the protocol of what was cut.
            let ([protocol], read) = load::<1>(ctx, at);
            frame.header.protocol = protocol;
            frame.cut = !read;
        }
    } else if frame.header.protocol == TCP {
        let (tcp, read) = load::<{ header::TCP_LENGTH }>(ctx, at);
        frame.source = u16::from_be_bytes([tcp[0], tcp[1]]);
        frame.destination = u16::from_be_bytes([tcp[2], tcp[3]]);
        frame.sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        frame.acknowledgement = u32::from_be_bytes([tcp[8], tcp[9], tcp[10], tcp[11]]);
        frame.detail = tcp[TCP_FLAGS];
        frame.cut = !read;
    } else if frame.header.protocol == UDP {
        let ([a, b, c, d], read) = load::<4>(ctx, at);
        frame.source = u16::from_be_bytes([a, b]);
        frame.destination = u16::from_be_bytes([c, d]);
        frame.cut = !read;
    } else if frame.header.protocol == ICMP || frame.header.protocol == ICMPV6 {
        let ([kind, _, _, _, a, b], read) = load::<6>(ctx, at);
        frame.detail = kind;
        frame.source = u16::from_be_bytes([a, b]);
        frame.cut = !read;
        frame.quote = quote(ctx, frame);
    } else if frame.header.may_be_listener_discovery() {
        let (bytes, read) = load::<{ header::HOP_BY_HOP_LENGTH }>(ctx, at);
        frame.listener_discovery = read && header::is_listener_discovery(&bytes);
    }
}

/// The packet in an ICMP message, if it is an error about TCP or UDP for who had sent it.
#[inline(always)]
fn quote(ctx: &TcContext, frame: &Frame) -> Quote {
    let at = frame.header.length + ICMP_HEADER;
    let header = if matches!(frame.kind, Kind::V4) {
        let (bytes, read) = load::<{ header::V4_LENGTH }>(ctx, at);
        if read { Header::v4(&bytes) } else { Header::NONE }
    } else {
        let (bytes, read) = load::<{ header::V6_LENGTH }>(ctx, at);
        if read { Header::v6(&bytes) } else { Header::NONE }
    };
    if (header.protocol != TCP && header.protocol != UDP) || !link::is_between(&header, &frame.header) {
        return Quote::NONE;
    }
    let ([a, b, c, d], read) = load::<4>(ctx, at + header.length);
    if !read {
        return Quote::NONE;
    }
    Quote {
        protocol: header.protocol,
        source: u16::from_be_bytes([a, b]),
        destination: u16::from_be_bytes([c, d]),
    }
}

/// Bytes at an offset from the network header, and whether they are there.
#[inline(always)]
fn load<const N: usize>(ctx: &TcContext, offset: u32) -> ([u8; N], bool) {
    let mut bytes = [0; N];
    let to: *mut [u8; N] = &raw mut bytes;
    // SAFETY: the kernel's context, and a buffer of that length.
    let result = unsafe {
        bpf_skb_load_bytes_relative(ctx.skb.skb.cast(), offset, to.cast(), N as u32, FROM_NETWORK_HEADER)
    };
    (bytes, result == 0)
}
