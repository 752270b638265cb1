//! What the maps say of a destination. Asked by the pure deciders; answered by `maps` in the kernel and by tables in tests.

use agent_common::Endpoint;

/// Destinations that may be reached without the gateway.
pub trait Destinations {
    /// Whether it is in a bypassed range of its own family.
    fn bypassed(&self, destination: &Endpoint) -> bool;
    /// Whether it is a configured DNS resolver: address and port.
    fn resolver(&self, destination: &Endpoint) -> bool;
    /// Whether this UDP peer has sent to the local port (host order) of the running workload before.
    fn spoke_first(&self, port: u16, peer: &Endpoint) -> bool;
}
