//! Strict start: what a cgroup may do before it is known whether it will be captured. Called by the programs on a guarded
//! parent, for whoever is below it; pure, so it is tested on the host.
//!
//! Until then it may do what it may do in either case: loopback, bypassed ranges, resolvers. It may not answer callers
//! from elsewhere: a server that cannot do its work must not look ready.

use agent_common::{Decision, Endpoint};

use crate::{
    backstop::{Packet, Socket, judge_other},
    classify::{Attempt, is_loopback},
    destinations::Destinations,
    numbers::{IPPROTO_TCP, IPPROTO_UDP, SOCK_STREAM},
};

/// `connect()`; None: goes on. Datagram sockets are judged when they send.
#[inline(always)]
pub fn connect(
    attempt: &Attempt,
    classified: impl FnOnce() -> bool,
    destinations: &impl Destinations,
) -> Option<Decision> {
    let passes = attempt.kind != SOCK_STREAM || may_send(&attempt.destination, classified, destinations);
    if passes { None } else { Some(Decision::GuardRefused) }
}

/// `sendto()` of UDP; None: goes on.
#[inline(always)]
pub fn datagram(
    destination: &Endpoint,
    classified: impl FnOnce() -> bool,
    destinations: &impl Destinations,
) -> Option<Decision> {
    if may_send(destination, classified, destinations) { None } else { Some(Decision::GuardRefusedDatagram) }
}

/// A packet of a socket whose cgroup is not classified, and that does not leave by loopback; None: goes on.
#[inline(always)]
pub fn packet(packet: &Packet, socket: &Socket, destinations: &impl Destinations) -> Option<Decision> {
    let ports = packet.protocol == IPPROTO_TCP || packet.protocol == IPPROTO_UDP;
    let known = packet.plain
        && (destinations.bypassed(&packet.destination)
            || (ports && destinations.resolver(&packet.destination).is_some()));
    let passes = known || (!ports && judge_other(packet, socket) == Decision::PassedNeighbour);
    if passes { None } else { Some(Decision::GuardDropped) }
}

#[inline(always)]
fn may_send(
    destination: &Endpoint,
    classified: impl FnOnce() -> bool,
    destinations: &impl Destinations,
) -> bool {
    is_loopback(&destination.address(), destination.address_v4())
        || classified()
        || destinations.bypassed(destination)
        || destinations.resolver(destination).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        numbers::{IPPROTO_ICMPV6, SOCK_DGRAM, SOCK_RAW},
        testing::{Table, endpoint},
        verdict::{Verdict, verdict},
    };

    const EVERYBODY_MAY: [&str; 7] = [
        "127.0.0.1:80",
        "[::1]:80",
        "[::ffff:127.0.0.1]:80",
        "10.1.2.3:80",
        "[fd00::1]:80",
        "192.0.2.53:53",
        "[2001:db8::53]:53",
    ];
    const ENROLLED_AND_OTHERS_DIFFER: [&str; 5] =
        ["203.0.113.7:80", "[2001:db8::7]:80", "[::ffff:203.0.113.7]:80", "192.0.2.53:80", "224.0.0.1:80"];

    #[test]
    fn who_is_not_classified_goes_only_where_everybody_may() {
        for (text, allowed) in EVERYBODY_MAY
            .map(|text| (text, true))
            .into_iter()
            .chain(ENROLLED_AND_OTHERS_DIFFER.map(|text| (text, false)))
        {
            let destination = endpoint(text);
            let stream = Attempt { kind: SOCK_STREAM, protocol: IPPROTO_TCP, device: 0, destination };
            let udp = Attempt { kind: SOCK_DGRAM, protocol: IPPROTO_UDP, device: 0, destination };
            let table = Table::default();
            let refused = (!allowed).then_some(Decision::GuardRefused);
            assert_eq!(connect(&stream, || false, &table), refused, "{text}");
            assert_eq!(connect(&stream, || true, &table), None, "{text}");
            assert_eq!(connect(&udp, || false, &table), None, "{text}");
            let refused = (!allowed).then_some(Decision::GuardRefusedDatagram);
            assert_eq!(datagram(&destination, || false, &table), refused, "{text}");
            assert_eq!(datagram(&destination, || true, &table), None, "{text}");
        }
        for decision in [Decision::GuardRefused, Decision::GuardRefusedDatagram] {
            assert_eq!(verdict(decision), Verdict::Refuse(111));
        }
    }

    #[test]
    fn its_packets_leave_only_for_there() {
        let plain = Packet {
            device: 2,
            source: endpoint("10.1.2.4:4000"),
            destination: endpoint("10.1.2.3:80"),
            protocol: IPPROTO_TCP,
            hops: 64,
            plain: true,
            detail: 0,
            listener_discovery: false,
        };
        let elsewhere = Packet { destination: endpoint("203.0.113.7:80"), ..plain };
        let resolver = Packet { destination: endpoint("192.0.2.53:53"), protocol: IPPROTO_UDP, ..plain };
        let neighbour = Packet { protocol: IPPROTO_ICMPV6, hops: 255, detail: 135, ..elsewhere };
        let raw = Socket { kind: SOCK_RAW, protocol: 255, state: 0 };
        for (name, sent, passes) in [
            ("bypassed", plain, true),
            ("bypassed by a hop", Packet { plain: false, ..plain }, false),
            ("elsewhere", elsewhere, false),
            ("an answer", Packet { detail: 0x12, ..elsewhere }, false),
            ("resolver", resolver, true),
            ("ping to a resolver", Packet { protocol: IPPROTO_ICMPV6, ..resolver }, false),
            ("neighbour", neighbour, true),
            ("not from next door", Packet { hops: 64, ..neighbour }, false),
        ] {
            let expected = (!passes).then_some(Decision::GuardDropped);
            assert_eq!(packet(&sent, &raw, &Table::default()), expected, "{name}");
        }
    }
}
