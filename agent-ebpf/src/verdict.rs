//! The one table from decisions to what the application sees. Called by the connect hooks for every decision; whether a
//! case fails open or closed is decided here and nowhere else.

use agent_common::Decision;

const EPERM: i32 = 1;
const ENETUNREACH: i32 = 101;
const ECONNREFUSED: i32 = 111;

/// What happens to a connect().
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
        // Clients retry after "connection refused", and both cases pass by themselves: the agent is just starting, or away.
        Decision::RefusedUnclassified | Decision::RefusedNoListener => Verdict::Refuse(ECONNREFUSED),
        // As tcp_v4_connect and tcp_v6_connect answer.
        Decision::RefusedMulticast | Decision::RefusedNoRoute => Verdict::Refuse(ENETUNREACH),
        // The kernel sends a SYN to port 0, and hosts answer with a reset.
        Decision::RefusedPortZero => Verdict::Refuse(ECONNREFUSED),
        Decision::RefusedBoundDevice | Decision::RefusedNoMemory => Verdict::Refuse(EPERM),
        // Not decisions about a connect(). Named one by one, so that a new decision does not compile before it is here.
        Decision::Published | Decision::PublishFailed | Decision::Withdrawn | Decision::PeerRestored => {
            Verdict::Refuse(EPERM)
        }
    }
}
