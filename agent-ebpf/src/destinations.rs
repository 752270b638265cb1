//! What the maps say of a destination. Asked by the pure deciders; answered by `maps` in the kernel and by tables in tests.

use agent_common::Endpoint;

/// Where a UDP peer has been heard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Heard {
    /// Nowhere.
    #[default]
    Never,
    /// On this machine only. Not proof of anything: whoever may bind to an address that is not his (`IPV6_FREEBIND` takes no
    /// privilege) can send from it to himself.
    Here,
    /// By a link.
    Outside,
}

/// Destinations that may be reached without the gateway.
pub trait Destinations {
    /// Whether it is in a bypassed range of its own family.
    fn bypassed(&self, destination: &Endpoint) -> bool;
    /// The number of a configured DNS resolver (address and port) among those of its family.
    fn resolver(&self, destination: &Endpoint) -> Option<u8>;
    /// Whether this TCP peer has asked the running program's socket, which listens, for a connection, from outside.
    fn called(&self, peer: &Endpoint) -> bool;
    /// Where this UDP peer has sent to the running program's socket before.
    fn heard(&self, peer: &Endpoint) -> Heard;
}
