//! Every decision, and the order between them.

extern crate std;

use core::net::SocketAddr;

use super::*;
use crate::{
    testing::Table,
    verdict::{Verdict, verdict},
};

const POLICY: Policy = Policy::new(7, 15_001, 15_006);
const TABLE: Table = Table { spoken: None };

fn tcp(destination: &str) -> Attempt {
    let destination: SocketAddr = destination.parse().unwrap();
    Attempt { kind: SOCK_STREAM, protocol: IPPROTO_TCP, device: 0, destination: destination.into() }
}

fn decide(destination: &str) -> Decision {
    classify(&POLICY, &tcp(destination), &TABLE)
}

#[test]
fn destinations() {
    for (destination, expected) in [
        ("192.0.2.1:80", Decision::Captured),
        ("[2001:db8::1]:443", Decision::Captured),
        ("[::ffff:192.0.2.1]:80", Decision::Captured),
        ("169.254.169.254:80", Decision::Captured),
        ("240.0.0.1:80", Decision::Captured),
        ("126.255.255.255:80", Decision::Captured),
        ("128.0.0.1:80", Decision::Captured),
        ("0.0.0.1:80", Decision::Captured),
        ("[::2]:80", Decision::Captured),
        ("[fe80::1]:80", Decision::Captured),
        ("127.0.0.1:80", Decision::BypassedLoopback),
        ("127.255.0.9:0", Decision::BypassedLoopback),
        ("0.0.0.0:80", Decision::BypassedLoopback),
        ("[::1]:80", Decision::BypassedLoopback),
        ("[::]:80", Decision::BypassedLoopback),
        ("[::ffff:127.0.0.5]:80", Decision::BypassedLoopback),
        ("[::ffff:0.0.0.0]:80", Decision::BypassedLoopback),
        ("224.0.0.1:80", Decision::RefusedMulticast),
        ("239.255.255.255:80", Decision::RefusedMulticast),
        ("255.255.255.255:80", Decision::RefusedMulticast),
        ("[::ffff:224.0.0.1]:80", Decision::RefusedMulticast),
        ("[ff02::1]:80", Decision::RefusedMulticast),
        ("224.0.0.1:0", Decision::RefusedMulticast),
        ("192.0.2.1:0", Decision::RefusedPortZero),
    ] {
        assert_eq!(decide(destination), expected, "{destination}");
    }
}

#[test]
fn only_tcp_streams_are_captured() {
    for (kind, protocol, expected) in [
        (SOCK_STREAM, IPPROTO_TCP, Decision::Captured),
        (SOCK_STREAM, IPPROTO_MPTCP, Decision::Captured),
        (2, 17, Decision::PassedNotTcp),
        (3, IPPROTO_TCP, Decision::PassedNotTcp),
        (SOCK_STREAM, 132, Decision::PassedNotTcp),
    ] {
        let attempt = Attempt { kind, protocol, ..tcp("192.0.2.1:80") };
        assert_eq!(classify(&POLICY, &attempt, &TABLE), expected, "type {kind}, protocol {protocol}");
    }
}

#[test]
fn without_a_policy_everything_is_refused_loopback_too() {
    let zero = Policy::new(0, 15_001, 15_006);
    for destination in ["192.0.2.1:80", "127.0.0.1:80", "[::1]:80"] {
        assert_eq!(classify(&zero, &tcp(destination), &TABLE), Decision::RefusedUnclassified);
    }
}

#[test]
fn a_bypassed_range_comes_before_routes_devices_and_listeners() {
    let nothing = Policy::new(7, 0, 0).without_route(true, true);
    let decide = |destination| classify(&nothing, &Attempt { device: 4, ..tcp(destination) }, &TABLE);
    assert_eq!(decide("10.0.0.1:80"), Decision::BypassedRange);
    assert_eq!(decide("192.0.2.53:53"), Decision::BypassedResolver);
    assert_eq!(decide("192.0.2.53:80"), Decision::RefusedNoRoute);
}

#[test]
fn families_are_judged_apart() {
    let v4_only = Policy::new(7, 15_001, 0).without_route(false, true);
    assert_eq!(classify(&v4_only, &tcp("192.0.2.1:80"), &TABLE), Decision::Captured);
    assert_eq!(classify(&v4_only, &tcp("[::ffff:192.0.2.1]:80"), &TABLE), Decision::Captured);
    assert_eq!(classify(&v4_only, &tcp("[2001:db8::1]:80"), &TABLE), Decision::RefusedNoRoute);
    let no_listener = Policy::new(7, 15_001, 0);
    assert_eq!(classify(&no_listener, &tcp("[2001:db8::1]:80"), &TABLE), Decision::RefusedNoListener);
}

#[test]
fn a_device_other_than_loopback_is_refused() {
    let bound = |device| classify(&POLICY, &Attempt { device, ..tcp("192.0.2.1:80") }, &TABLE);
    assert_eq!(bound(LOOPBACK_DEVICE), Decision::Captured);
    assert_eq!(bound(2), Decision::RefusedBoundDevice);
}

#[test]
fn nothing_is_let_out_by_accident() {
    for decision in Decision::ALL {
        let name = decision.name();
        let open = ["passed_", "bypassed_", "link_passed_"].iter().any(|start| name.starts_with(start));
        assert_eq!(verdict(*decision) == Verdict::Pass, open, "{}", decision.name());
    }
}
