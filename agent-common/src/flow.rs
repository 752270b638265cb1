//! What the lock on a link remembers: who has spoken to the workload by this link, and which addresses are the workload's.

use crate::Endpoint;

/// Protocol of [`Flow`] for a neighbour that has been discovered: no packet of IPv6 hop-by-hop options is a flow.
const NEIGHBOUR: u8 = 0;

/// Two ends of a flow, at one link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Flow {
    /// Index of the host's device, host order.
    device: u32,
    /// The workload's end; of an echo request, its identifier is the port.
    local: Endpoint,
    /// The other end.
    peer: Endpoint,
    protocol: u8,
    /// Always zero: map keys are compared byte by byte.
    reserved: [u8; 3],
}

impl Flow {
    /// Of `protocol` between `local` at the workload, and `peer`.
    #[inline(always)]
    pub const fn new(device: u32, protocol: u8, local: Endpoint, peer: Endpoint) -> Self {
        Self { device, local, peer, protocol, reserved: [0; 3] }
    }

    /// A neighbour that has spoken by neighbour discovery, which no router passes on.
    #[inline(always)]
    pub const fn neighbour(device: u32, address: [u8; 16]) -> Self {
        Self::new(device, NEIGHBOUR, Endpoint::v6([0; 16], 0), Endpoint::v6(address, 0))
    }
}

/// When a flow's peer was heard last, and how it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Heard {
    /// `CLOCK_MONOTONIC`, nanoseconds.
    at: u64,
    /// TCP that is being opened: what acknowledges the workload's SYN-ACK; 0, none has been sent.
    acknowledgement: u32,
    /// 1: made by the workload before the lock was there.
    older: u32,
}

impl Heard {
    /// Heard now.
    #[inline(always)]
    pub const fn new(at: u64) -> Self {
        Self { at, acknowledgement: 0, older: 0 }
    }

    /// Made by the workload itself, before the lock was there.
    #[must_use]
    pub const fn older(mut self) -> Self {
        self.older = 1;
        self
    }

    /// The same, heard again.
    #[inline(always)]
    #[must_use]
    pub const fn again(mut self, at: u64) -> Self {
        self.at = at;
        self
    }

    /// The same, of which the workload has sent a SYN-ACK with this sequence number.
    #[inline(always)]
    #[must_use]
    pub const fn answered(mut self, sequence: u32) -> Self {
        self.acknowledgement = sequence.wrapping_add(1);
        self
    }

    /// When it was heard last.
    #[inline(always)]
    pub const fn at(&self) -> u64 {
        self.at
    }

    /// What acknowledges the SYN-ACK that the workload has sent, if it has.
    #[inline(always)]
    pub const fn acknowledgement(&self) -> u32 {
        self.acknowledgement
    }

    /// Whether the workload made it before the lock was there.
    #[inline(always)]
    pub const fn is_older(&self) -> bool {
        self.older != 0
    }
}

/// An address of the workload at a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct LinkSource {
    /// Index of the host's device, host order.
    device: u32,
    /// IPv4 v4-mapped.
    address: [u8; 16],
}

impl LinkSource {
    /// Of the workload behind the host's `device`.
    #[inline(always)]
    pub const fn new(device: u32, address: [u8; 16]) -> Self {
        Self { device, address }
    }

    /// The host's device.
    pub const fn device(&self) -> u32 {
        self.device
    }

    /// The address, IPv4 v4-mapped.
    pub const fn address(&self) -> [u8; 16] {
        self.address
    }
}
