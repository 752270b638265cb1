//! That connections spread evenly, and that a bound source port means the same listener for the same destination.

extern crate std;

use core::net::SocketAddr;

use super::*;

const PORTS: u8 = 8;
const POLICY: Policy = Policy::new(7, 61_000, 62_000).with_ports(PORTS);

fn to(destination: &str) -> Endpoint {
    destination.parse::<SocketAddr>().unwrap().into()
}

/// How many of `destinations` go to each port, with a bound source port.
fn counts(destinations: impl Iterator<Item = Endpoint>) -> [u32; PORTS as usize] {
    let mut counts = [0; PORTS as usize];
    for destination in destinations {
        let port = port(&POLICY, &destination, 4000, 0);
        counts[usize::from(port - POLICY.listener(destination.address_v4().is_some()))] += 1;
    }
    counts
}

#[test]
fn any_random_number_gives_one_of_the_ports() {
    let destination = to("192.0.2.1:80");
    for (random, expected) in [(0, 61_000), (u32::MAX, 61_007), (1 << 31, 61_004), ((1 << 29) - 1, 61_000)] {
        assert_eq!(port(&POLICY, &destination, 0, random), expected, "{random}");
    }
    assert_eq!(port(&POLICY, &to("[2001:db8::1]:80"), 0, u32::MAX), 62_007);
    assert_eq!(port(&POLICY, &to("[::ffff:192.0.2.1]:80"), 0, u32::MAX), 61_007, "a v4-mapped one is IPv4");
}

#[test]
fn one_port_is_enough() {
    let one = Policy::new(7, 61_000, 62_000);
    for (source, random) in [(0, 0), (0, u32::MAX), (4000, 0)] {
        assert_eq!(port(&one, &to("192.0.2.1:80"), source, random), 61_000);
    }
}

#[test]
fn a_bound_source_port_means_one_listener_per_destination() {
    let destination = to("192.0.2.1:80");
    let first = port(&POLICY, &destination, 4000, 1);
    // Neither the random number nor the source port matters: another socket with it must find the same end.
    for (source, random) in [(4000, u32::MAX), (4001, 1 << 30), (1, 0)] {
        assert_eq!(port(&POLICY, &destination, source, random), first);
    }
}

#[test]
fn destinations_spread_whatever_differs() {
    let addresses = (0..=255_u8).flat_map(|c| (0..=31_u8).map(move |d| Endpoint::v4([203, 0, c, d], 443)));
    let ports = (1..=8192).map(|port| Endpoint::v4([203, 0, 113, 7], port));
    let hosts = (0..8192_u16).map(|host| {
        let [a, b] = host.to_be_bytes();
        Endpoint::v6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b], 443)
    });
    let networks = (0..8192_u16).map(|network| {
        let [a, b] = network.to_be_bytes();
        Endpoint::v6([0x20, 1, 0xd, 0xb8, a, b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 443)
    });
    for counts in [counts(addresses), counts(ports), counts(hosts), counts(networks)] {
        // 1024 each if it were even; five standard deviations are 150.
        assert!(counts.iter().all(|count| (874..=1174).contains(count)), "{counts:?}");
    }
}
