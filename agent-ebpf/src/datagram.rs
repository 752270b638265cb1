//! Where a workload may send UDP, by `sendto()` and `sendmsg()` with an address. Called by the sendmsg hooks; pure, so it is
//! tested on the host. Connected sockets do not come here: `connect()` of UDP is allowed, since address sorting in C
//! libraries needs it, and what they send is judged by the backstop.

use agent_common::{Decision, Endpoint, Policy};

use crate::{
    classify::is_loopback,
    destinations::{Destinations, Heard},
    resolver,
};

/// Decides. [`Decision::CapturedQuery`] means "to be sent to the listener of the resolver". A peer that was heard on this machine may be answered as far as this hook is concerned, since the address does not
/// say whether the answer leaves; the backstop knows, and does not let it.
#[inline(always)]
pub fn datagram(policy: &Policy, destination: &Endpoint, destinations: &impl Destinations) -> Decision {
    if policy.workload() == 0 {
        return Decision::RefusedUnclassified;
    }
    let number = destinations.resolver(destination);
    // Before loopback, where the resolver of a machine often is.
    if let Some(number) = number
        && policy.dns()
    {
        let listener = resolver::listener(policy, destination.address_v4().is_some(), number);
        return if listener == 0 { Decision::RefusedNoListener } else { Decision::CapturedQuery };
    }
    let allowed = is_loopback(&destination.address(), destination.address_v4())
        || destinations.bypassed(destination)
        || number.is_some()
        || destinations.heard(destination) != Heard::Never;
    if allowed { Decision::PassedDatagram } else { Decision::RefusedDatagram }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Table, endpoint};

    #[test]
    fn only_where_the_configuration_or_the_peer_allows_it() {
        let policy = Policy::new(7, 1, 1);
        let heard = |heard| Table { spoken: Some(("198.51.100.9:4242", heard)) };
        for (destination, expected) in [
            ("127.0.0.1:53", Decision::PassedDatagram),
            ("[::1]:9", Decision::PassedDatagram),
            ("[::ffff:127.0.0.1]:9", Decision::PassedDatagram),
            ("10.1.2.3:9", Decision::PassedDatagram),
            ("192.0.2.53:53", Decision::PassedDatagram),
            ("192.0.2.53:443", Decision::RefusedDatagram),
            ("198.51.100.9:4242", Decision::PassedDatagram),
            ("198.51.100.9:4243", Decision::RefusedDatagram),
            ("203.0.113.7:443", Decision::RefusedDatagram),
            ("[2001:db8::1]:443", Decision::RefusedDatagram),
            ("224.0.0.251:5353", Decision::RefusedDatagram),
        ] {
            for table in [heard(Heard::Here), heard(Heard::Outside)] {
                assert_eq!(datagram(&policy, &endpoint(destination), &table), expected, "{destination}");
            }
        }
        let captured = policy.with_dns(3000, 0);
        for (destination, expected) in [
            ("192.0.2.53:53", Decision::CapturedQuery),
            ("127.0.0.53:53", Decision::CapturedQuery),
            ("[2001:db8::53]:53", Decision::RefusedNoListener),
            ("127.0.0.54:53", Decision::PassedDatagram),
            ("192.0.2.53:54", Decision::RefusedDatagram),
        ] {
            let decided = datagram(&captured, &endpoint(destination), &Table::default());
            assert_eq!(decided, expected, "{destination}");
        }
        let table = Table::default();
        assert_eq!(datagram(&policy, &endpoint("198.51.100.9:4242"), &table), Decision::RefusedDatagram);
        let nobody = Policy::new(0, 1, 1);
        assert_eq!(datagram(&nobody, &endpoint("127.0.0.1:53"), &table), Decision::RefusedUnclassified);
    }
}
