//! Where a workload may send UDP, by `sendto()` and `sendmsg()` with an address. Called by the sendmsg hooks; pure, so it is
//! tested on the host. Connected sockets do not come here: `connect()` of UDP is allowed, since address sorting in C
//! libraries needs it, and what they send is judged by the backstop.

use agent_common::{Decision, Endpoint, Policy};

use crate::{classify::is_loopback, destinations::Destinations};

/// Decides. `port` is the socket's own, host order.
#[inline(always)]
pub fn datagram(
    policy: &Policy,
    port: u16,
    destination: &Endpoint,
    destinations: &impl Destinations,
) -> Decision {
    if policy.workload() == 0 {
        return Decision::RefusedUnclassified;
    }
    let allowed = is_loopback(&destination.address(), destination.address_v4())
        || destinations.bypassed(destination)
        || destinations.resolver(destination)
        || destinations.spoke_first(port, destination);
    if allowed { Decision::PassedDatagram } else { Decision::RefusedDatagram }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Table, endpoint};

    #[test]
    fn only_where_the_configuration_or_the_peer_allows_it() {
        let policy = Policy::new(7, 1, 1);
        let table = Table { spoken: Some((5000, "198.51.100.9:4242")) };
        for (port, destination, expected) in [
            (4000, "127.0.0.1:53", Decision::PassedDatagram),
            (4000, "[::1]:9", Decision::PassedDatagram),
            (4000, "[::ffff:127.0.0.1]:9", Decision::PassedDatagram),
            (4000, "10.1.2.3:9", Decision::PassedDatagram),
            (4000, "192.0.2.53:53", Decision::PassedDatagram),
            (4000, "192.0.2.53:443", Decision::RefusedDatagram),
            (4000, "198.51.100.9:4242", Decision::RefusedDatagram),
            (5000, "198.51.100.9:4242", Decision::PassedDatagram),
            (5000, "198.51.100.9:4243", Decision::RefusedDatagram),
            (4000, "203.0.113.7:443", Decision::RefusedDatagram),
            (4000, "[2001:db8::1]:443", Decision::RefusedDatagram),
            (4000, "224.0.0.251:5353", Decision::RefusedDatagram),
        ] {
            assert_eq!(datagram(&policy, port, &endpoint(destination), &table), expected, "{destination}");
        }
        let nobody = Policy::new(0, 1, 1);
        assert_eq!(datagram(&nobody, 1, &endpoint("127.0.0.1:53"), &table), Decision::RefusedUnclassified);
    }
}
