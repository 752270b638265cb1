//! Which of a workload's listener ports a captured connection goes to. Called by the connect hooks; pure, so it is tested on
//! the host.
//!
//! A connection is known to the kernel by both ends. With one listener port per family a workload would have as many
//! connections (those in TIME_WAIT included) as there are ephemeral ports, and no source port could be used twice.

#[cfg(test)]
mod tests;

use agent_common::{Endpoint, Policy};

/// Odd numbers without a pattern: the fractions of the golden ratio and of the square root of 3.
const MIX: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xbb67_ae85_84ca_a73b];

/// The port (host order) for a connection to `destination`.
///
/// `source_port` is the one that the application has bound, else 0. With one of its own, the destination alone says where it
/// goes: like without us, the same pair of ends cannot be used twice, and two destinations mostly can. Otherwise `random` does:
/// many connections to one destination spread.
#[inline(always)]
pub fn port(policy: &Policy, destination: &Endpoint, source_port: u32, random: u32) -> u16 {
    let number = if source_port == 0 { random } else { hash(destination) };
    // The upper half of the product is below the number of ports; no division.
    let index = (u64::from(number) * u64::from(policy.ports())) >> 32;
    policy.listener(destination.address_v4().is_some()).wrapping_add(index as u16)
}

/// 32 bits in which every bit of address and port counts.
#[inline(always)]
fn hash(destination: &Endpoint) -> u32 {
    let address = u128::from_be_bytes(destination.address());
    let (high, low) = ((address >> 64) as u64, address as u64);
    let mut mixed = (high ^ u64::from(destination.port())).wrapping_mul(MIX[0]);
    mixed = (mixed ^ (mixed >> 32) ^ low).wrapping_mul(MIX[1]);
    mixed = (mixed ^ (mixed >> 32)).wrapping_mul(MIX[0]);
    (mixed >> 32) as u32
}
