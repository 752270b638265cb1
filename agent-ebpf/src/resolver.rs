//! From a DNS resolver to the listener that stands for it, and back. Every resolver has a listener with a port of its own, so
//! that neither needs to be remembered per datagram: one socket may ask several at once. Pure, so it is tested on the host.

use agent_common::{Endpoint, Policy, names::DNS_LISTENERS};

/// 127.0.0.1, v4-mapped, and ::1.
const LOOPBACK: [[u8; 16]; 2] = [
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1],
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
];

/// Port (host order) of the listener for the resolver with this number; 0: there is none.
#[inline(always)]
pub const fn listener(policy: &Policy, v4: bool, number: u8) -> u16 {
    let first = policy.dns_listener(v4);
    let number = number as u16;
    if first == 0 || number >= DNS_LISTENERS { 0 } else { first.wrapping_add(number) }
}

/// Where the resolver that a datagram from `source` stands for is among the numbered ones; None: it is from no DNS listener.
#[inline(always)]
pub fn numbered(policy: &Policy, source: &Endpoint) -> Option<u32> {
    let v4 = source.address_v4().is_some();
    if !policy.dns() || source.address() != (if v4 { LOOPBACK[0] } else { LOOPBACK[1] }) {
        return None;
    }
    let (first, number) = (policy.dns_listener(v4), source.port().wrapping_sub(policy.dns_listener(v4)));
    if first == 0 || number >= DNS_LISTENERS {
        return None;
    }
    Some(u32::from(if v4 { number } else { number + DNS_LISTENERS }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::endpoint;

    #[test]
    fn every_resolver_has_a_port_and_every_port_a_resolver() {
        let policy = Policy::new(7, 1, 1).with_dns(3000, 65_530);
        for (v4, number, address, index) in [
            (true, 0, "127.0.0.1:3000", 0),
            (true, 15, "127.0.0.1:3015", 15),
            (false, 0, "[::1]:65530", 16),
            (false, 5, "[::1]:65535", 21),
        ] {
            let source = endpoint(address);
            assert_eq!(listener(&policy, v4, number), source.port(), "{address}");
            assert_eq!(numbered(&policy, &source), Some(index), "{address}");
        }
        assert_eq!(listener(&policy, true, 16), 0);
        for other in ["127.0.0.1:2999", "127.0.0.1:3016", "127.0.0.2:3000", "[::1]:3000", "192.0.2.53:3000"] {
            assert_eq!(numbered(&policy, &endpoint(other)), None, "{other}");
        }
    }

    #[test]
    fn without_dns_capture_or_a_listener_there_is_none() {
        let off = Policy::new(7, 1, 1);
        assert_eq!((listener(&off, true, 0), numbered(&off, &endpoint("127.0.0.1:0"))), (0, None));
        let v4_only = off.with_dns(3000, 0);
        assert_eq!((listener(&v4_only, false, 0), numbered(&v4_only, &endpoint("[::1]:1"))), (0, None));
    }
}
