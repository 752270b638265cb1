//! The one table from decisions to what the application sees. Called by every hook that can refuse, for every decision;
//! whether a case fails open or closed is decided here and nowhere else.

use agent_common::Decision;

const EPERM: i32 = 1;
const EACCES: i32 = 13;
const EPROTONOSUPPORT: i32 = 93;
const ENETUNREACH: i32 = 101;
const ECONNREFUSED: i32 = 111;

/// What happens to a call or a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Goes to where the application wanted.
    Pass,
    /// Goes on with the destination that the program has written.
    Rewritten,
    /// Fails with this errno. A packet is dropped; if a call waits for it, it fails with EPERM whatever is said here.
    Refuse(i32),
}

/// Whether the agent is told of a decision about a call: what was refused because it would not go through the gateway, or because something
/// is wrong. Not told: what fails without us just so, and Multipath TCP, whose clients go on with TCP.
#[inline(always)]
pub const fn is_told(decision: Decision) -> bool {
    matches!(
        decision,
        Decision::RefusedDatagram
            | Decision::RefusedRawSocket
            | Decision::RefusedPingSocket
            | Decision::RefusedSocketClass
            | Decision::RefusedNodeSocket
            | Decision::RefusedBoundDevice
            | Decision::RefusedNoListener
            | Decision::RefusedNoMemory
    )
}

/// The verdict of each decision.
#[inline(always)]
pub const fn verdict(decision: Decision) -> Verdict {
    match decision {
        Decision::PassedNotTcp
        | Decision::BypassedLoopback
        | Decision::BypassedRange
        | Decision::BypassedResolver
        | Decision::PassedDatagram
        | Decision::PassedLoopback
        | Decision::PassedRange
        | Decision::PassedResolver
        | Decision::PassedAnswer
        | Decision::PassedDatagramAnswer
        | Decision::PassedNeighbour
        | Decision::PassedOlderConnection
        | Decision::PassedKeptConnection
        | Decision::LinkPassedTunnel
        | Decision::LinkPassedDirect
        | Decision::LinkPassedAnswer
        | Decision::LinkPassedNeighbour
        | Decision::LinkPassedOlderConnection
        | Decision::BypassedAgentDown
        | Decision::PassedAgentDown => Verdict::Pass,
        Decision::Captured
        | Decision::AlreadyCaptured
        | Decision::CapturedResolver
        | Decision::CapturedQuery => Verdict::Rewritten,
        // Clients retry after "connection refused", and the first two pass by themselves: the agent is just starting, or away.
        // Port 0: the kernel sends a SYN there, and hosts answer with a reset. A datagram: as if a host had answered that
        // nobody is there, so that QUIC clients go on with TCP at once.
        Decision::RefusedUnclassified
        | Decision::RefusedNoListener
        | Decision::RefusedPortZero
        | Decision::RefusedDatagram
        | Decision::GuardRefused
        | Decision::GuardRefusedDatagram => Verdict::Refuse(ECONNREFUSED),
        // As tcp_v4_connect and tcp_v6_connect answer.
        Decision::RefusedMulticast | Decision::RefusedNoRoute => Verdict::Refuse(ENETUNREACH),
        // As a kernel without these protocols answers: clients go on with TCP and UDP.
        Decision::RefusedMptcpSocket | Decision::RefusedSocketClass => Verdict::Refuse(EPROTONOSUPPORT),
        // As the kernel answers who is not in `net.ipv4.ping_group_range`.
        Decision::RefusedPingSocket => Verdict::Refuse(EACCES),
        // A raw socket: as the kernel answers who lacks CAP_NET_RAW. Those after the drops are no decisions about something that
        // can be refused. They are named, so that a new decision does not compile before it is here.
        Decision::RefusedRawSocket
        | Decision::RefusedNodeSocket
        | Decision::RefusedBoundDevice
        | Decision::RefusedNoMemory
        | Decision::DroppedUnclassified
        | Decision::DroppedCaptured
        | Decision::DroppedTcpOpen
        | Decision::DroppedDatagram
        | Decision::DroppedIcmp
        | Decision::DroppedRaw
        | Decision::DroppedOther
        | Decision::DroppedOlderConnection
        | Decision::LinkDroppedUnclassified
        | Decision::LinkDroppedSource
        | Decision::LinkDroppedDestination
        | Decision::LinkDroppedHeader
        | Decision::LinkDroppedOther
        | Decision::GuardDropped
        | Decision::Published
        | Decision::PublishFailed
        | Decision::Withdrawn
        | Decision::PeerRestored
        | Decision::SourceRestored
        | Decision::Accepted
        | Decision::AcceptFailed
        | Decision::EventLost => Verdict::Refuse(EPERM),
    }
}
