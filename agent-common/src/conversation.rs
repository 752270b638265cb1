//! Which peers have spoken to a socket first: what lets the answers of a server pass.

use crate::Endpoint;

/// A peer and the socket that it has sent to. By socket, not by port: the same port in a network namespace of the workload's
/// own making would hear whomever it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Conversation {
    /// Cookie of the socket, host order.
    socket: u64,
    peer: Endpoint,
    /// Always zero: map keys are compared byte by byte.
    reserved: [u8; 4],
}

impl Conversation {
    /// Of `peer` with the socket that has this cookie.
    #[inline(always)]
    pub const fn new(socket: u64, peer: Endpoint) -> Self {
        Self { socket, peer, reserved: [0; 4] }
    }
}
