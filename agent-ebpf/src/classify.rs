//! What to do with a connection: captured, left alone, or refused, and why. Called by the connect hooks; pure, so it is
//! tested on the host. The order of the questions is part of the contract (`agent/ARCHITECTURE.md`, "Capture").

#[cfg(test)]
mod tests;

use agent_common::{Decision, Endpoint, Policy};

use crate::{
    destinations::Destinations,
    numbers::{IPPROTO_MPTCP, IPPROTO_TCP, IPPROTO_UDP, LOOPBACK_DEVICE, SOCK_DGRAM, SOCK_STREAM},
    resolver,
};

/// A `connect()` as the hook sees it.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// `type` of the socket.
    pub kind: u32,
    /// `protocol` of the socket.
    pub protocol: u32,
    /// The device the socket is bound to; 0 is none.
    pub device: u32,
    /// Where the application wants to go.
    pub destination: Endpoint,
}

/// Decides. `destinations` is asked only when it matters.
/// [`Decision::Captured`] and [`Decision::CapturedResolver`] mean "to be captured": the caller still has to remember the
/// destination and rewrite it.
#[inline(always)]
pub fn classify(policy: &Policy, attempt: &Attempt, destinations: &impl Destinations) -> Decision {
    // Asked before loopback, where the resolver of a machine often is.
    let resolver = if policy.dns() { destinations.resolver(&attempt.destination) } else { None };
    if attempt.kind == SOCK_DGRAM && attempt.protocol == IPPROTO_UDP {
        // Refusing is the backstop's business: address sorting in C libraries needs connect() of UDP.
        return match resolver.map(|number| to_resolver(policy, attempt, number)) {
            Some(Decision::CapturedResolver) => Decision::CapturedResolver,
            _ => Decision::PassedNotTcp,
        };
    }
    // The rest is the backstop's business, not this hook's. MPTCP counts as TCP: it must not be a way out.
    if attempt.kind != SOCK_STREAM || (attempt.protocol != IPPROTO_TCP && attempt.protocol != IPPROTO_MPTCP) {
        return Decision::PassedNotTcp;
    }
    if policy.workload() == 0 {
        return Decision::RefusedUnclassified;
    }
    if let Some(number) = resolver {
        return to_resolver(policy, attempt, number);
    }
    let address = attempt.destination.address();
    let v4 = attempt.destination.address_v4();
    if is_loopback(&address, v4) {
        return Decision::BypassedLoopback;
    }
    if is_multicast_or_broadcast(&address, v4) {
        return Decision::RefusedMulticast;
    }
    if attempt.destination.port() == 0 {
        return Decision::RefusedPortZero;
    }
    if destinations.bypassed(&attempt.destination) {
        return Decision::BypassedRange;
    }
    if destinations.resolver(&attempt.destination).is_some() {
        return Decision::BypassedResolver;
    }
    if policy.no_route(v4.is_some()) {
        return Decision::RefusedNoRoute;
    }
    if bound(attempt) {
        return Decision::RefusedBoundDevice;
    }
    if policy.listener(v4.is_some()) == 0 {
        return Decision::RefusedNoListener;
    }
    Decision::Captured
}

/// Asks a resolver while DNS is captured.
#[inline(always)]
fn to_resolver(policy: &Policy, attempt: &Attempt, number: u8) -> Decision {
    if bound(attempt) {
        Decision::RefusedBoundDevice
    } else if resolver::listener(policy, attempt.destination.address_v4().is_some(), number) == 0 {
        Decision::RefusedNoListener
    } else {
        Decision::CapturedResolver
    }
}

/// The listener cannot be reached by the device that the socket is bound to.
#[inline(always)]
fn bound(attempt: &Attempt) -> bool {
    attempt.device != 0 && attempt.device != LOOPBACK_DEVICE
}

/// Loopback, or unspecified, which the kernel takes for loopback.
#[inline(always)]
pub fn is_loopback(address: &[u8; 16], v4: Option<[u8; 4]>) -> bool {
    match v4 {
        Some([127, ..] | [0, 0, 0, 0]) => true,
        Some(_) => false,
        None => u128::from_be_bytes(*address) <= 1,
    }
}

/// Whether TCP cannot go there, by the address alone. A subnet's broadcast address is not known here.
#[inline(always)]
fn is_multicast_or_broadcast(address: &[u8; 16], v4: Option<[u8; 4]>) -> bool {
    match v4 {
        Some(octets) => matches!(octets, [224..=239, ..] | [255, 255, 255, 255]),
        None => address[0] == 0xff,
    }
}
