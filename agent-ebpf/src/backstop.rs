//! Which packets of a workload may leave: the second lock, behind the connect hooks. Called by the egress hook for every
//! packet of the cgroup's sockets; pure, so it is tested on the host.
//!
//! The order of the questions is part of the contract (`agent/ARCHITECTURE.md`, "Backstop"). The socket's own class is
//! asked beside the packet's protocol: a raw socket can write any header it likes.

#[cfg(test)]
mod tests;

use agent_common::{Decision, Endpoint, Policy, Standing};

use crate::{
    destinations::{Destinations, Heard},
    header::{ACK, RST, SYN},
    numbers::{
        IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, LOOPBACK_DEVICE, SOCK_DGRAM, SOCK_RAW,
        SOCK_STREAM,
    },
};

/// State of a socket that waits for connections. SYN-ACKs leave with it.
pub const TCP_LISTEN: u32 = 10;
/// State of a socket whose SYN has not been answered.
pub const TCP_SYN_SENT: u32 = 2;
/// State of a socket without a connection.
pub const TCP_CLOSE: u32 = 7;
/// Neighbour discovery (RFC 4861 §4); a hop limit of 255 proves that no router was passed.
const NEIGHBOUR_DISCOVERY: core::ops::RangeInclusive<u8> = 133..=137;
const NEIGHBOUR_HOPS: u8 = 255;

/// A packet that is about to leave.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Index of the device it leaves by.
    pub device: u32,
    /// Source address, and port where the protocol has one and is known.
    pub source: Endpoint,
    /// Destination address, and port where the protocol has one and is known.
    pub destination: Endpoint,
    /// IP protocol, or the first next-header.
    pub protocol: u32,
    /// Hop limit.
    pub hops: u8,
    /// The destination is where it goes: neither options nor extension headers.
    pub plain: bool,
    /// Flags of TCP, type of an ICMPv6 message.
    pub detail: u8,
    /// Multicast-listener discovery.
    pub listener_discovery: bool,
}

/// The socket that sends it.
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    /// `type`.
    pub kind: u32,
    /// `protocol`.
    pub protocol: u32,
    /// State of TCP.
    pub state: u32,
}

/// What is remembered with the socket. Asked only when it matters.
pub trait Memory {
    /// Its last `connect()` was captured.
    fn captured(&self) -> bool;
    /// It is a connection that came from outside.
    fn accepted(&self) -> bool;
    /// Its last `connect()` was let out because the agent was down.
    fn let_out(&self) -> bool;
    /// What user space has found out about it, where no program saw it begin.
    fn older(&self) -> Option<Standing>;
}

/// Decides.
#[inline(always)]
pub fn judge(
    policy: &Policy,
    packet: &Packet,
    socket: &Socket,
    destinations: &impl Destinations,
    memory: &impl Memory,
) -> Decision {
    if policy.workload() == 0 {
        return Decision::DroppedUnclassified;
    }
    if packet.device == LOOPBACK_DEVICE {
        return Decision::PassedLoopback;
    }
    let tcp = socket.kind == SOCK_STREAM && socket.protocol == IPPROTO_TCP && packet.protocol == IPPROTO_TCP;
    let listens = tcp && socket.state == TCP_LISTEN;
    // Before the bypassed ranges: source routing or a bound device would send a captured connection by a bypassed hop.
    if tcp && !listens && memory.captured() {
        return Decision::DroppedCaptured;
    }
    if packet.plain {
        if destinations.bypassed(&packet.destination) {
            return Decision::PassedRange;
        }
        // While DNS is captured, what goes to a resolver goes to the DNS listeners, on loopback.
        if (packet.protocol == IPPROTO_TCP || packet.protocol == IPPROTO_UDP)
            && !policy.dns()
            && destinations.resolver(&packet.destination).is_some()
        {
            return Decision::PassedResolver;
        }
    }
    if tcp {
        return judge_tcp(policy, packet, listens, destinations, memory);
    }
    if socket.kind == SOCK_DGRAM && socket.protocol == IPPROTO_UDP && packet.protocol == IPPROTO_UDP {
        return if destinations.heard(&packet.destination) == Heard::Outside {
            Decision::PassedDatagramAnswer
        } else {
            Decision::DroppedDatagram
        };
    }
    judge_other(packet, socket)
}

#[inline(always)]
fn judge_tcp(
    policy: &Policy,
    packet: &Packet,
    listens: bool,
    destinations: &impl Destinations,
    memory: &impl Memory,
) -> Decision {
    let opens = packet.detail & SYN != 0;
    // Before "accepted": nobody answers with a SYN alone.
    if opens && packet.detail & ACK == 0 {
        return if memory.let_out() { Decision::PassedAgentDown } else { Decision::DroppedTcpOpen };
    }
    let answers = if listens { destinations.called(&packet.destination) } else { memory.accepted() };
    if answers {
        return Decision::PassedAnswer;
    }
    // A SYN-ACK to somebody who has not called: a simultaneous open, or the workload called itself in another's name.
    if opens {
        return Decision::DroppedTcpOpen;
    }
    if memory.let_out() {
        return Decision::PassedAgentDown;
    }
    let ends = match memory.older() {
        Some(Standing::FromOutside) => return Decision::PassedAnswer,
        Some(Standing::Kept) => return Decision::PassedKeptConnection,
        Some(Standing::Ended) => true,
        None => policy.drops_older(),
    };
    // A reset carries no data, and spares the other side waiting for what will not come.
    if ends && packet.detail & RST == 0 {
        Decision::DroppedOlderConnection
    } else {
        Decision::PassedOlderConnection
    }
}

/// What is neither TCP nor UDP.
#[inline(always)]
pub(crate) fn judge_other(packet: &Packet, socket: &Socket) -> Decision {
    // The kernel's own sockets for these are raw ones, and belong to the cgroup that made the network namespace.
    let neighbour = packet.plain
        && packet.protocol == IPPROTO_ICMPV6
        && packet.hops == NEIGHBOUR_HOPS
        && NEIGHBOUR_DISCOVERY.contains(&packet.detail);
    if neighbour || packet.listener_discovery {
        return Decision::PassedNeighbour;
    }
    if packet.protocol == IPPROTO_ICMP || packet.protocol == IPPROTO_ICMPV6 {
        return Decision::DroppedIcmp;
    }
    if socket.kind == SOCK_RAW { Decision::DroppedRaw } else { Decision::DroppedOther }
}
