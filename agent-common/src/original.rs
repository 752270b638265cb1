//! How an original destination travels from the workload's `connect()` to the agent's `accept()`: first with the socket
//! ([`Captured`]), then, when the source port is known, under an [`OriginalKey`].

use crate::{Endpoint, Process};

/// What a captured socket remembers (socket storage).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Captured {
    destination: Endpoint,
    /// Host order.
    workload: u32,
    /// Host order.
    listener: u16,
    /// 1: the listener is a DNS listener.
    resolver: u8,
    reserved: u8,
    /// Who called `connect()`.
    process: Process,
}

impl Captured {
    /// A connection of `workload` to `destination` that is sent to the listener's port (host order) instead.
    #[inline(always)]
    pub const fn new(destination: Endpoint, workload: u32, listener: u16) -> Self {
        Self { destination, workload, listener, resolver: 0, reserved: 0, process: Process::UNKNOWN }
    }

    /// The same, and who called `connect()`.
    #[must_use]
    #[inline(always)]
    pub const fn by(mut self, process: Process) -> Self {
        self.process = process;
        self
    }

    /// The same, of a socket that asks a DNS resolver. Its listener knows the resolver by the port: nothing is published.
    #[must_use]
    #[inline(always)]
    pub const fn at_resolver(mut self) -> Self {
        self.resolver = 1;
        self
    }

    /// Whether it was sent to a DNS listener.
    #[inline(always)]
    pub const fn is_at_resolver(&self) -> bool {
        self.resolver != 0
    }

    /// Where the application wanted to go.
    #[inline(always)]
    pub const fn destination(&self) -> Endpoint {
        self.destination
    }

    /// Who called `connect()`.
    #[inline(always)]
    pub const fn process(&self) -> Process {
        self.process
    }

    /// Whose policy captured it: with nested enrolled cgroups several programs see the same socket.
    #[inline(always)]
    pub const fn workload(&self) -> u32 {
        self.workload
    }

    /// The listener's port (host order) that it was sent to.
    #[inline(always)]
    pub const fn listener(&self) -> u16 {
        self.listener
    }
}

/// Names a captured connection as the listener sees it: by both ends, since one source may have connections to several
/// of the workload's listener ports at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct OriginalKey {
    /// Host order.
    workload: u32,
    /// Network order.
    source: [u8; 16],
    /// Network order.
    source_port: [u8; 2],
    /// Network order.
    listener: [u8; 2],
}

impl OriginalKey {
    /// The connection of `workload` that comes from `source` to the listener's port (host order).
    #[inline(always)]
    pub const fn new(workload: u32, source: Endpoint, listener: u16) -> Self {
        Self {
            workload,
            source: source.address(),
            source_port: source.port().to_be_bytes(),
            listener: listener.to_be_bytes(),
        }
    }
}

/// The original destination of a captured connection, and when it was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Original {
    /// Nanoseconds of `CLOCK_MONOTONIC`, host order.
    published: u64,
    destination: Endpoint,
    process: Process,
}

impl Original {
    /// Of a connection of `process` to `destination`, published at `published` nanoseconds of `CLOCK_MONOTONIC`.
    #[inline(always)]
    pub const fn new(destination: Endpoint, process: Process, published: u64) -> Self {
        Self { published, destination, process }
    }

    /// Who called `connect()`.
    pub const fn process(&self) -> Process {
        self.process
    }

    /// Where the application wanted to go.
    pub const fn destination(&self) -> Endpoint {
        self.destination
    }

    /// Nanoseconds of `CLOCK_MONOTONIC` at which the SYN was about to leave.
    pub const fn published(&self) -> u64 {
        self.published
    }
}
