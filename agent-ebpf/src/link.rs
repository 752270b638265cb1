//! Which packets may come out of a workload's link: the lock at the host's side, which nothing in the workload can reach. Called
//! by `lock` for every frame of the link; pure, so it is tested on the host.
//!
//! Here a packet has no socket and no sender that could be trusted: what passes is what its bytes say, and what has come
//! in by the same link before. The order of the questions is part of the contract (`agent/ARCHITECTURE.md`, "The lock on the link").

#[cfg(test)]
mod tests;

use agent_common::{Decision, Endpoint, Heard};

use crate::{
    destinations::Destinations,
    header::{ACK, Header, SYN},
    numbers::{IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP},
};

/// Flags and offset of an IPv4 header: more fragments follow, or it is not the first.
const FRAGMENT: u16 = 0x3fff;
/// Router solicitation, neighbour solicitation and advertisement (RFC 4861 §4). A workload is no router.
const NEIGHBOUR_DISCOVERY: [u8; 3] = [133, 135, 136];
/// What neighbours send, routers too.
const NEIGHBOURS: core::ops::RangeInclusive<u8> = 133..=136;
/// Proves that no router was passed.
const NEIGHBOUR_HOPS: u8 = 255;
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
const UNREACHABLE_V6: u8 = 1;
/// The longest frame of ARP: the shortest that Ethernet has. What is longer carries something else.
const ARP_LENGTH: u32 = 60;
/// Ethernet addresses for IPv4 ones (RFC 826).
const ARP_HEADER: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// How far the acknowledgement of a SYN-ACK may be ahead of it: data with the SYN-ACK, and a first ACK that was lost.
const FIRST_WINDOW: u32 = 1 << 16;
/// How long after its last packet from outside a TCP connection may be answered: an application's keepalive comes
/// every two hours (`net.ipv4.tcp_keepalive_time`).
pub const FLOW_AGE: u64 = 3 * 60 * 60 * SECOND;
/// The same for all else: as the kernel's connection tracking has it for UDP.
pub const HEARD_AGE: u64 = 180 * SECOND;
const SECOND: u64 = 1_000_000_000;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ARP message of Ethernet and IPv4, and nothing else.
    Arp,
    /// IPv4, without a VLAN tag.
    V4,
    /// IPv6, without a VLAN tag.
    V6,
    /// Anything else.
    Other,
}

/// A frame of the link, in either direction.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Index of the host's device.
    pub device: u32,
    /// What it is.
    pub kind: Kind,
    /// Its IP header; [`Header::NONE`] where it cannot be read.
    pub header: Header,
    /// A part of a packet. The protocol of the header is the packet's.
    pub fragment: bool,
    /// The header after the IP header is shorter than it has to be.
    pub cut: bool,
    /// Port; of an ICMP echo, its identifier.
    pub source: u16,
    /// Port.
    pub destination: u16,
    /// Flags of TCP, type of an ICMP message.
    pub detail: u8,
    /// Sequence number of TCP.
    pub sequence: u32,
    /// Acknowledgement number of TCP.
    pub acknowledgement: u32,
    /// Multicast-listener discovery.
    pub listener_discovery: bool,
    /// What an ICMP error is about.
    pub quote: Quote,
}

/// The packet that an ICMP error is about: one of TCP or UDP that came to the workload, from whom the error is for.
#[derive(Clone, Copy, Debug)]
pub struct Quote {
    /// TCP or UDP; 0: there is none.
    pub protocol: u8,
    /// Its source port.
    pub source: u16,
    /// Its destination port.
    pub destination: u16,
}

impl Quote {
    /// Where there is none.
    pub const NONE: Self = Self { protocol: 0, source: 0, destination: 0 };
}

/// What is known of a flow's peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spoken {
    /// It has not spoken, or too long ago.
    #[default]
    Never,
    /// It has spoken first.
    First,
    /// The workload made the connection before the lock was there.
    Older,
}

/// What the maps say of the link.
pub trait Link {
    /// It has an entry.
    fn locked(&self) -> bool;
    /// A gateway's address and port.
    fn gateway(&self, destination: &Endpoint) -> bool;
    /// An address of the workload.
    fn owns(&self, address: &[u8; 16]) -> bool;
    /// A flow with the workload's end `local`. `accepts`: sequence number of the SYN-ACK that the workload is sending,
    /// to be remembered.
    fn flow(&self, protocol: u8, local: Endpoint, peer: Endpoint, accepts: Option<u32>) -> Spoken;
    /// A neighbour that has been discovered.
    fn neighbour(&self, address: &[u8; 16]) -> bool;
}

/// What an incoming frame teaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lesson {
    /// Nothing.
    Nothing,
    /// Its sender may be answered.
    Heard,
    /// The connection goes on, if it is known.
    GoesOn,
    /// Its sender is a neighbour.
    Neighbour,
}

impl Frame {
    /// Whether the destination in the header is where it goes: neither options nor extension headers, but it may be a fragment.
    #[inline(always)]
    const fn straight(&self) -> bool {
        match self.kind {
            Kind::V4 => self.header.length == crate::header::V4_LENGTH as u32,
            _ => self.header.plain || self.fragment,
        }
    }

    #[inline(always)]
    fn is(&self, protocol: u32) -> bool {
        u32::from(self.header.protocol) == protocol
    }

    /// Its protocol is one of those that are let anywhere at all. Not those that carry other packets (IP in IP, GRE): some
    /// host that may be reached unwraps them.
    #[inline(always)]
    fn is_transport(&self) -> bool {
        self.is(IPPROTO_TCP)
            || self.is(IPPROTO_UDP)
            || (self.is(IPPROTO_ICMP) && matches!(self.kind, Kind::V4))
            || (self.is(IPPROTO_ICMPV6) && matches!(self.kind, Kind::V6))
    }

    #[inline(always)]
    fn opens(&self) -> bool {
        self.is(IPPROTO_TCP) && self.detail & (SYN | ACK) == SYN
    }

    #[inline(always)]
    const fn from(&self, port: u16) -> Endpoint {
        Endpoint::v6(self.header.source, port)
    }

    #[inline(always)]
    const fn to(&self, port: u16) -> Endpoint {
        Endpoint::v6(self.header.destination, port)
    }

    /// Not an IP packet that can be judged. An IPv6 packet whose addresses look like IPv4's would be taken for IPv4.
    #[inline(always)]
    fn unreadable(&self) -> bool {
        let forged = matches!(self.kind, Kind::V6)
            && (mapped(&self.header.source) || mapped(&self.header.destination));
        !matches!(self.kind, Kind::V4 | Kind::V6) || self.header.length == 0 || self.cut || forged
    }
}

/// Decides about a frame that comes from the workload.
#[inline(always)]
pub fn judge(frame: &Frame, destinations: &impl Destinations, link: &impl Link) -> Decision {
    if !link.locked() {
        return Decision::LinkDroppedUnclassified;
    }
    if matches!(frame.kind, Kind::Arp) {
        return Decision::LinkPassedNeighbour;
    }
    if frame.unreadable() {
        return Decision::LinkDroppedOther;
    }
    if frame.listener_discovery || discovers(frame, link) {
        return Decision::LinkPassedNeighbour;
    }
    if !frame.straight() {
        return Decision::LinkDroppedHeader;
    }
    if !frame.is_transport() {
        return Decision::LinkDroppedOther;
    }
    let to = frame.to(if frame.fragment { 0 } else { frame.destination });
    let ports = !frame.fragment && (frame.is(IPPROTO_TCP) || frame.is(IPPROTO_UDP));
    let allowed = if ports && frame.is(IPPROTO_TCP) && link.gateway(&to) {
        Decision::LinkPassedTunnel
    } else if destinations.bypassed(&to) || (ports && destinations.resolver(&to)) {
        Decision::LinkPassedDirect
    } else {
        return answers(frame, link);
    };
    // Whoever answers would answer to the address in the header: an accomplice's.
    if link_local(&frame.header.source) || link.owns(&frame.header.source) {
        allowed
    } else {
        Decision::LinkDroppedSource
    }
}

/// What is not addressed to where the workload may go by itself.
#[inline(always)]
fn answers(frame: &Frame, link: &impl Link) -> Decision {
    if frame.fragment {
        return Decision::LinkDroppedHeader;
    }
    // Nobody answers with a SYN alone.
    if frame.opens() {
        return Decision::LinkDroppedDestination;
    }
    let (protocol, local, peer) = if frame.is(IPPROTO_TCP) || frame.is(IPPROTO_UDP) {
        (frame.header.protocol, frame.source, frame.destination)
    } else if is_either(frame, ECHO_REPLY, ECHO_REPLY_V6) {
        (frame.header.protocol, frame.source, 0)
    } else if is_either(frame, UNREACHABLE, UNREACHABLE_V6) && frame.quote.protocol != 0 {
        (frame.quote.protocol, frame.quote.destination, frame.quote.source)
    } else {
        return Decision::LinkDroppedDestination;
    };
    let accepts = frame.is(IPPROTO_TCP) && frame.detail & (SYN | ACK) == SYN | ACK;
    let spoken = link.flow(protocol, frame.from(local), frame.to(peer), accepts.then_some(frame.sequence));
    match spoken {
        Spoken::First => Decision::LinkPassedAnswer,
        Spoken::Older => Decision::LinkPassedOlderConnection,
        Spoken::Never => Decision::LinkDroppedDestination,
    }
}

/// What a frame that goes to the workload teaches. Nothing is dropped in this direction.
#[inline(always)]
pub fn lesson(frame: &Frame) -> Lesson {
    if frame.unreadable() || !frame.header.plain || frame.fragment {
        return Lesson::Nothing;
    }
    if frame.is(IPPROTO_TCP) {
        return if frame.opens() { Lesson::Heard } else { Lesson::GoesOn };
    }
    if frame.is(IPPROTO_UDP) || (frame.is_transport() && is_either(frame, ECHO_REQUEST, ECHO_REQUEST_V6)) {
        return Lesson::Heard;
    }
    let neighbour = matches!(frame.kind, Kind::V6)
        && frame.is(IPPROTO_ICMPV6)
        && frame.header.hops == NEIGHBOUR_HOPS
        && NEIGHBOURS.contains(&frame.detail);
    if neighbour { Lesson::Neighbour } else { Lesson::Nothing }
}

/// The two ends of the flow of a frame that goes to the workload: the workload's, and its peer's.
#[inline(always)]
pub fn ends(frame: &Frame) -> (Endpoint, Endpoint) {
    if frame.is(IPPROTO_TCP) || frame.is(IPPROTO_UDP) {
        (frame.to(frame.destination), frame.from(frame.source))
    } else {
        // An echo's identifier stands for the workload's port.
        (frame.to(frame.source), frame.from(0))
    }
}

/// Whether a packet proves that its sender has received the workload's SYN-ACK, and so is who it says.
#[inline(always)]
pub fn proves(frame: &Frame, heard: &Heard) -> bool {
    frame.detail & ACK != 0
        && heard.acknowledgement() != 0
        && frame.acknowledgement.wrapping_sub(heard.acknowledgement()) < FIRST_WINDOW
}

/// What is known of a peer that was heard then.
#[inline(always)]
pub const fn spoken(heard: &Heard, now: u64, age: u64) -> Spoken {
    if now.saturating_sub(heard.at()) > age {
        Spoken::Never
    } else if heard.is_older() {
        Spoken::Older
    } else {
        Spoken::First
    }
}

/// Whether the beginning of an ARP message is one of Ethernet and IPv4, and the frame has no room for anything else.
#[inline(always)]
pub fn is_arp(bytes: &[u8; 6], length: u32) -> bool {
    *bytes == ARP_HEADER && length <= ARP_LENGTH
}

/// Whether a packet with this header came from whom an answer with that header goes to.
#[inline(always)]
pub fn is_between(quoted: &Header, answer: &Header) -> bool {
    quoted.plain && quoted.source == answer.destination && quoted.destination == answer.source
}

/// Whether the flags and offset of an IPv4 header are those of a fragment.
#[inline(always)]
pub const fn is_fragment(bytes: [u8; 2]) -> bool {
    u16::from_be_bytes(bytes) & FRAGMENT != 0
}

/// Neighbour discovery that stays on the link: by its destination, or because that is a neighbour. Routers do not care
/// for the hop limit of what they pass on.
#[inline(always)]
fn discovers(frame: &Frame, link: &impl Link) -> bool {
    let to = &frame.header.destination;
    matches!(frame.kind, Kind::V6)
        && frame.header.plain
        && frame.is(IPPROTO_ICMPV6)
        && frame.header.hops == NEIGHBOUR_HOPS
        && NEIGHBOUR_DISCOVERY.contains(&frame.detail)
        && (link_local(to) || (to[0] == 0xff && to[1] == 0x02) || link.neighbour(to))
}

/// The type of an ICMP message, in the family of the packet.
#[inline(always)]
fn is_either(frame: &Frame, v4: u8, v6: u8) -> bool {
    frame.detail == if matches!(frame.kind, Kind::V4) { v4 } else { v6 }
}

#[inline(always)]
fn link_local(address: &[u8; 16]) -> bool {
    address[0] == 0xfe && address[1] & 0xc0 == 0x80
}

#[inline(always)]
fn mapped(address: &[u8; 16]) -> bool {
    Endpoint::v6(*address, 0).address_v4().is_some()
}
