//! What the kernel programs tell about connections that no agent sees: bypassed ones, when they open and when they are over,
//! and calls that were refused. Through a ring: [`crate::names::EVENTS`].

use crate::{Decision, Endpoint, Process};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// `connect()` of a bypassed connection: it is being opened.
    Opened = 1,
    /// A bypassed connection is over: both sides have closed it, one has reset it, or its socket is gone.
    Closed = 2,
    /// A call was refused.
    Refused = 3,
}

/// The size of a bypassed connection, and how it went. All of it 0 in the other events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Figures {
    /// Bytes of the application's that were sent.
    pub sent: u64,
    /// Bytes that were received in order.
    pub received: u64,
    /// Smoothed round-trip time, microseconds.
    pub rtt_us: u32,
    /// Segments sent again.
    pub retransmits: u32,
    /// Segments sent.
    pub segments_sent: u32,
    /// Segments received.
    pub segments_received: u32,
}

impl Figures {
    /// Of what has not carried anything.
    pub const NONE: Self =
        Self { sent: 0, received: 0, rtt_us: 0, retransmits: 0, segments_sent: 0, segments_received: 0 };
}

/// One event. Of a fixed size, so that the ring needs no lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// Cookie of the socket; 0 for [`EventKind::Refused`].
    pub cookie: u64,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub at: u64,
    /// The same of its `connect()`.
    pub opened: u64,
    /// The same of the SYN-ACK; 0: there was none.
    pub established: u64,
    /// Of a connection that is over.
    pub figures: Figures,
    /// Number of an [`EventKind`].
    pub kind: u32,
    /// Number of the [`Decision`].
    pub decision: u32,
    /// Whose it is.
    pub workload: u32,
    /// Who called.
    pub process: Process,
    /// Where it goes; zero where a call has no destination.
    pub destination: Endpoint,
    /// Always zero.
    pub reserved: u32,
}

impl Event {
    /// What happened; None: a kind that this version does not know.
    pub const fn kind(&self) -> Option<EventKind> {
        match self.kind {
            1 => Some(EventKind::Opened),
            2 => Some(EventKind::Closed),
            3 => Some(EventKind::Refused),
            _ => None,
        }
    }

    /// What was decided; None: a decision that this version does not know.
    pub fn decision(&self) -> Option<Decision> {
        Decision::ALL.iter().copied().find(|decision| *decision as u32 == self.decision)
    }
}

/// What a bypassed socket remembers (socket storage).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Bypassed {
    /// As in [`Event`].
    pub cookie: u64,
    /// As in [`Event`].
    pub opened: u64,
    /// As in [`Event`].
    pub established: u64,
    /// As far as they are known: `sent` since this side's FIN, `received` since the other's.
    pub figures: Figures,
    /// As in [`Event`].
    pub decision: u32,
    /// As in [`Event`].
    pub workload: u32,
    /// As in [`Event`].
    pub process: Process,
    /// As in [`Event`].
    pub destination: Endpoint,
    /// What has happened to it, a byte each; see `agent_ebpf::lifetime`.
    pub marks: [u8; 8],
}
