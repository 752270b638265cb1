//! The one table from decisions to what the application sees. Called by the connect hooks for every decision; whether a
//! case fails open or closed is decided here and nowhere else.

use agent_common::Decision;

const EPERM: i32 = 1;
const ENETUNREACH: i32 = 101;
const ECONNREFUSED: i32 = 111;

/// What happens to a `connect()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Goes to where the application wanted.
    Pass,
    /// Goes on with the destination that the program has written.
    Rewritten,
    /// Fails with this errno.
    Refuse(i32),
}

/// The verdict of each decision.
#[inline(always)]
pub const fn verdict(decision: Decision) -> Verdict {
    match decision {
        Decision::PassedNotTcp | Decision::BypassedLoopback | Decision::BypassedRange => Verdict::Pass,
        Decision::Captured | Decision::AlreadyCaptured => Verdict::Rewritten,
        // Clients retry after "connection refused", and the first two pass by themselves: the agent is just starting, or away.
        // Port 0: the kernel sends a SYN there, and hosts answer with a reset.
        Decision::RefusedUnclassified | Decision::RefusedNoListener | Decision::RefusedPortZero => {
            Verdict::Refuse(ECONNREFUSED)
        }
        // As tcp_v4_connect and tcp_v6_connect answer.
        Decision::RefusedMulticast | Decision::RefusedNoRoute => Verdict::Refuse(ENETUNREACH),
        // The last four are no decisions about a `connect()`. They are named, so that a new decision does not compile before it
        // is here.
        Decision::RefusedBoundDevice
        | Decision::RefusedNoMemory
        | Decision::Published
        | Decision::PublishFailed
        | Decision::Withdrawn
        | Decision::PeerRestored => Verdict::Refuse(EPERM),
    }
}
