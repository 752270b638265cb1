//! Layouts that both sides rely on, and round trips.

extern crate std;

use core::mem::{align_of, size_of};
use core::net::SocketAddr;
use std::{collections::HashSet, string::ToString as _};

use crate::{
    Bypassed, Captured, Conversation, Decision, Endpoint, Event, Flow, Guard, Heard, LinkSource, Older,
    Original, OriginalKey, Policy, Process, Standing, names,
};

#[test]
fn layouts_are_fixed_and_without_padding() {
    assert_eq!((size_of::<Endpoint>(), align_of::<Endpoint>()), (20, 1));
    assert_eq!((size_of::<Policy>(), align_of::<Policy>()), (32, 4));
    assert_eq!((size_of::<Guard>(), align_of::<Guard>()), (16, 4));
    assert_eq!((size_of::<Captured>(), align_of::<Captured>()), (48, 4));
    assert_eq!((size_of::<OriginalKey>(), align_of::<OriginalKey>()), (24, 4));
    assert_eq!((size_of::<Conversation>(), align_of::<Conversation>()), (32, 8));
    assert_eq!((size_of::<Original>(), align_of::<Original>()), (48, 8));
    assert_eq!((size_of::<Flow>(), align_of::<Flow>()), (48, 4));
    assert_eq!((size_of::<Heard>(), align_of::<Heard>()), (16, 8));
    assert_eq!((size_of::<LinkSource>(), align_of::<LinkSource>()), (20, 4));
    assert_eq!((size_of::<Older>(), align_of::<Older>()), (8, 4));
    assert_eq!((size_of::<Process>(), align_of::<Process>()), (20, 4));
    assert_eq!((size_of::<Bypassed>(), align_of::<Bypassed>()), (112, 8));
    assert_eq!((size_of::<Event>(), align_of::<Event>()), (120, 8));
}

#[test]
fn addresses_survive_the_way_through_a_map() {
    for text in ["192.0.2.1:80", "[2001:db8::1]:443", "0.0.0.0:0", "[::]:65535"] {
        let address: SocketAddr = text.parse().unwrap();
        assert_eq!(SocketAddr::from(Endpoint::from(address)).to_string(), text);
    }
}

#[test]
fn a_mapped_address_and_its_ipv4_form_are_one_key() {
    let plain: SocketAddr = "127.0.0.1:4242".parse().unwrap();
    let mapped: SocketAddr = "[::ffff:127.0.0.1]:4242".parse().unwrap();
    assert_eq!(Endpoint::from(plain), Endpoint::from(mapped));
    assert_eq!(SocketAddr::from(Endpoint::from(mapped)), plain);
}

#[test]
fn one_source_may_have_a_connection_to_each_listener_port() {
    let source: Endpoint = "127.0.0.1:4242".parse::<SocketAddr>().unwrap().into();
    assert_ne!(OriginalKey::new(7, source, 61_000), OriginalKey::new(7, source, 61_001));
    assert_eq!(OriginalKey::new(7, source, 61_000), OriginalKey::new(7, source, 61_000));
}

#[test]
fn bytes_are_in_network_order() {
    let endpoint = Endpoint::v4([192, 0, 2, 1], 0x1234);
    assert_eq!(endpoint.address()[10..], [0xff, 0xff, 192, 0, 2, 1]);
    // SAFETY: Endpoint is 20 plain bytes.
    let bytes: [u8; 20] = unsafe { core::mem::transmute(endpoint) };
    assert_eq!(bytes[16..], [0x12, 0x34, 0, 0]);
}

#[test]
fn policy_keeps_families_apart() {
    let policy = Policy::new(7, 1000, 2000).without_route(false, true);
    assert_eq!((policy.workload(), policy.listener(true), policy.listener(false)), (7, 1000, 2000));
    assert!(!policy.no_route(true));
    assert!(policy.no_route(false));
    assert!(!policy.drops_older());
    assert!(policy.dropping_older(true).drops_older() && policy.dropping_older(true).no_route(false));
    assert!(!policy.bypass_when_down() && !policy.bypassed_when_down(false).bypass_when_down());
    let chosen = policy.bypassed_when_down(true);
    assert!(chosen.bypass_when_down() && chosen.no_route(false) && !chosen.no_route(true));
    assert!(!policy.own_network() && policy.in_own_network(true).own_network());
    assert!(!policy.dns());
    let policy = policy.with_dns(3000, 4000);
    assert!(policy.dns() && policy.no_route(false));
    assert_eq!((policy.dns_listener(true), policy.dns_listener(false)), (3000, 4000));
    assert_eq!((policy.listener(true), policy.listener(false)), (1000, 2000));
}

#[test]
fn a_standing_that_is_not_known_ends_the_connection() {
    for standing in [Standing::FromOutside, Standing::Kept, Standing::Ended] {
        assert_eq!(Older::new(7, standing).standing(), standing);
    }
    // SAFETY: Older is 8 plain bytes.
    let zeros: Older = unsafe { core::mem::transmute([0_u8; 8]) };
    assert_eq!(zeros.standing(), Standing::Ended);
}

#[test]
fn decisions_have_distinct_numbers_and_names() {
    let numbers: HashSet<_> = Decision::ALL.iter().map(|decision| *decision as usize).collect();
    assert_eq!(numbers.len(), Decision::ALL.len());
    assert!(numbers.iter().all(|number| *number < names::DECISIONS_CAPACITY));
    let names: HashSet<_> = Decision::ALL.iter().map(|decision| decision.name()).collect();
    assert_eq!(names.len(), Decision::ALL.len());
}

#[test]
fn names_fit_the_kernel() {
    for name in [
        names::POLICY,
        names::CAPTURED,
        names::ORIGINAL,
        names::BYPASS,
        names::DECISIONS,
        names::LET_OUT,
        names::CONNECT4,
        names::CONNECT6,
        names::GETPEERNAME4,
        names::GETPEERNAME6,
        names::RESOLVERS,
        names::ACCEPTED,
        names::SPOKEN,
        names::CALLS,
        names::OLDER,
        names::SOCK_CREATE,
        names::SENDMSG4,
        names::SENDMSG6,
        names::RECVMSG4,
        names::RECVMSG6,
        names::NUMBERED,
        names::EGRESS,
        names::INGRESS,
        names::LINKS,
        names::SOURCES,
        names::GATEWAYS,
        names::FLOWS,
        names::HEARD,
        names::LINK_OUT,
        names::LINK_IN,
        names::GUARD,
        names::CLASSES,
        names::GUARD_CONNECT4,
        names::GUARD_CONNECT6,
        names::GUARD_SENDMSG4,
        names::GUARD_SENDMSG6,
        names::GUARD_EGRESS,
    ] {
        assert!(name.len() <= 15, "{name}");
    }
}
