//! Which UDP peers have spoken to a workload first: what lets the answers of a UDP server pass.

use crate::Endpoint;

/// A peer outside and the local port that it has sent to. By port, not by socket: servers answer from a second, connected
/// socket, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Conversation {
    /// Host order.
    workload: u32,
    peer: Endpoint,
    /// Network order.
    port: [u8; 2],
    /// Always zero: map keys are compared byte by byte.
    reserved: [u8; 2],
}

impl Conversation {
    /// Of `peer` with the local `port` (host order) of `workload`.
    #[inline(always)]
    pub const fn new(workload: u32, port: u16, peer: Endpoint) -> Self {
        Self { workload, peer, port: port.to_be_bytes(), reserved: [0; 2] }
    }
}
