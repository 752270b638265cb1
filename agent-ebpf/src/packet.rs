//! `egress` and `ingress`: reads the packet, asks the backstop, and remembers which UDP peers have spoken. What is decided is
//! in `backstop`.

use core::ptr::{addr_of, read_volatile};

use agent_common::{Conversation, Decision, Endpoint};
use agent_ebpf::{
    backstop::{Memory, Packet, Socket, judge},
    header::{self, Header},
    verdict::{Verdict, verdict},
};
use aya_ebpf::{bindings::bpf_sock, helpers::bpf_sk_fullsock, programs::SkBuffContext};

use crate::maps::{self, ACCEPTED, CAPTURED, POLICY, Reachable};

/// Return values of the hooks.
const DROP: i32 = 0;
const PASS: i32 = 1;
/// EtherTypes.
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// Where TCP's flags are in its header.
const TCP_FLAGS: usize = 13;

/// A packet leaves.
#[inline(always)]
pub(crate) fn egress(ctx: &SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel's context, at its fixed offsets; all fields are read before any is used.
    let (protocol, device, socket) = unsafe {
        (
            read_volatile(addr_of!((*skb).protocol)),
            read_volatile(addr_of!((*skb).ifindex)),
            read_volatile(addr_of!((*skb).__bindgen_anon_2.sk)),
        )
    };
    let policy = POLICY.get();
    let socket = Full::of(socket);
    let decision = match read(ctx, protocol) {
        Some(packet) => {
            let packet = Packet { device, ..packet };
            let reachable = Reachable { workload: policy.workload() };
            judge(policy, &packet, &socket.class(), &reachable, &socket)
        }
        None => Decision::DroppedOther,
    };
    maps::count(decision);
    if matches!(verdict(decision), Verdict::Refuse(_)) { DROP } else { PASS }
}

/// A packet arrives: never dropped, but its sender may be answered.
#[inline(always)]
pub(crate) fn ingress(ctx: &SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the kernel's context, at its fixed offset.
    let protocol = unsafe { read_volatile(addr_of!((*skb).protocol)) };
    let policy = POLICY.get();
    let Some(header) = header(ctx, protocol) else { return PASS };
    // Answers over loopback pass anyway, but `sendto()` is judged by the address, which may be one of this host's own.
    if header.protocol == UDP
        && header.plain
        && let Ok(ports) = ctx.skb.load::<[u8; 4]>(header.length as usize)
    {
        let [a, b, c, d] = ports;
        let peer = Endpoint::v6(header.source, u16::from_be_bytes([a, b]));
        maps::remember(&Conversation::new(policy.workload(), u16::from_be_bytes([c, d]), peer));
    }
    PASS
}

/// The IP header; None when it cannot be read.
#[inline(always)]
fn header(ctx: &SkBuffContext, protocol: u32) -> Option<Header> {
    match u16::from_be(protocol as u16) {
        IPV4 => Header::v4(&ctx.skb.load::<[u8; header::V4_LENGTH]>(0).ok()?),
        IPV6 => Header::v6(&ctx.skb.load::<[u8; header::V6_LENGTH]>(0).ok()?),
        _ => None,
    }
}

/// The packet, but for the device.
#[inline(always)]
fn read(ctx: &SkBuffContext, protocol: u32) -> Option<Packet> {
    let header = header(ctx, protocol)?;
    let next = header.length as usize;
    let (mut source, mut destination, mut detail) = (0, 0, 0);
    match header.protocol {
        TCP => {
            let tcp = ctx.skb.load::<[u8; header::TCP_LENGTH]>(next).ok()?;
            source = u16::from_be_bytes([tcp[0], tcp[1]]);
            destination = u16::from_be_bytes([tcp[2], tcp[3]]);
            detail = tcp[TCP_FLAGS];
        }
        UDP => {
            let [a, b, c, d] = ctx.skb.load::<[u8; 4]>(next).ok()?;
            source = u16::from_be_bytes([a, b]);
            destination = u16::from_be_bytes([c, d]);
        }
        ICMPV6 => detail = ctx.skb.load::<u8>(next).ok()?,
        _ => {}
    }
    let listener_discovery = header.may_be_listener_discovery()
        && ctx
            .skb
            .load::<[u8; header::HOP_BY_HOP_LENGTH]>(next)
            .is_ok_and(|bytes| header::is_listener_discovery(&bytes));
    Some(Packet {
        device: 0,
        destination: Endpoint::v6(header.destination, destination),
        protocol: u32::from(header.protocol),
        hops: header.hops,
        plain: header.plain,
        port: source,
        detail,
        listener_discovery,
    })
}

/// The socket that a packet belongs to; null: none, or only a remnant of one.
#[derive(Clone, Copy)]
struct Full(*mut bpf_sock);

impl Full {
    #[inline(always)]
    fn of(socket: *mut bpf_sock) -> Self {
        if socket.is_null() {
            return Self(socket);
        }
        // SAFETY: the socket of the context, not null.
        Self(unsafe { bpf_sk_fullsock(socket) })
    }

    #[inline(always)]
    fn class(self) -> Socket {
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

impl Memory for Full {
    #[inline(always)]
    fn captured(&self) -> bool {
        !self.0.is_null() && CAPTURED.get(self.0).is_some()
    }

    #[inline(always)]
    fn accepted(&self) -> bool {
        !self.0.is_null() && ACCEPTED.get(self.0).is_some()
    }
}
