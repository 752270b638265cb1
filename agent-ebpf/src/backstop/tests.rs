//! Every rule, and the order between them.

extern crate std;

use super::*;
use crate::testing::{Table, endpoint};

const POLICY: Policy = Policy::new(7, 15_001, 15_006);
const OUTER: u32 = 4;
const ESTABLISHED: u32 = 1;
const TCP: Socket = Socket { kind: SOCK_STREAM, protocol: IPPROTO_TCP, state: ESTABLISHED };
const LISTENER: Socket = Socket { state: TCP_LISTEN, ..TCP };
const UDP: Socket = Socket { kind: SOCK_DGRAM, protocol: IPPROTO_UDP, state: 7 };
const RAW: Socket = Socket { kind: SOCK_RAW, protocol: 255, state: 7 };
const NOTHING: Marks = Marks { captured: false, accepted: false, let_out: false, older: None };
const CAPTURED: Marks = Marks { captured: true, ..NOTHING };
const ACCEPTED: Marks = Marks { accepted: true, ..NOTHING };
const LET_OUT: Marks = Marks { let_out: true, ..NOTHING };

#[derive(Clone, Copy, Debug)]
struct Marks {
    captured: bool,
    accepted: bool,
    let_out: bool,
    older: Option<Standing>,
}

impl Memory for Marks {
    fn captured(&self) -> bool {
        self.captured
    }

    fn accepted(&self) -> bool {
        self.accepted
    }

    fn let_out(&self) -> bool {
        self.let_out
    }

    fn older(&self) -> Option<Standing> {
        self.older
    }
}

fn packet(protocol: u32, destination: &str, detail: u8) -> Packet {
    Packet {
        device: OUTER,
        source: endpoint("192.0.2.7:4000"),
        destination: endpoint(destination),
        protocol,
        hops: 64,
        plain: true,
        detail,
        listener_discovery: false,
    }
}

fn tcp(flags: u8) -> Packet {
    packet(IPPROTO_TCP, "203.0.113.7:80", flags)
}

fn decide(packet: &Packet, socket: &Socket, marks: Marks) -> Decision {
    judge(&POLICY, packet, socket, &Table::default(), &marks)
}

#[test]
fn tcp_rules() {
    for (flags, socket, marks, expected) in [
        (SYN, TCP, NOTHING, Decision::DroppedTcpOpen),
        (SYN, TCP, ACCEPTED, Decision::DroppedTcpOpen),
        (SYN, TCP, CAPTURED, Decision::DroppedCaptured),
        (SYN | ACK, TCP, NOTHING, Decision::DroppedTcpOpen),
        (SYN | ACK, TCP, ACCEPTED, Decision::PassedAnswer),
        (SYN | ACK, LISTENER, NOTHING, Decision::DroppedTcpOpen),
        (ACK, TCP, ACCEPTED, Decision::PassedAnswer),
        (ACK, TCP, CAPTURED, Decision::DroppedCaptured),
        (ACK, TCP, NOTHING, Decision::PassedOlderConnection),
        (0x04, TCP, NOTHING, Decision::PassedOlderConnection),
        (SYN, TCP, LET_OUT, Decision::PassedAgentDown),
        (ACK, TCP, LET_OUT, Decision::PassedAgentDown),
        (SYN | ACK, TCP, LET_OUT, Decision::DroppedTcpOpen),
        (SYN, TCP, Marks { captured: true, ..LET_OUT }, Decision::DroppedCaptured),
    ] {
        assert_eq!(decide(&tcp(flags), &socket, marks), expected, "flags {flags:#x}, {socket:?}");
    }
}

#[test]
fn a_connection_that_no_program_saw_begin() {
    let older = |standing| Marks { older: Some(standing), ..NOTHING };
    let (lenient, strict) = (POLICY, POLICY.dropping_older(true));
    for (policy, marks, expected) in [
        (lenient, NOTHING, Decision::PassedOlderConnection),
        (strict, NOTHING, Decision::DroppedOlderConnection),
        (lenient, older(Standing::Ended), Decision::DroppedOlderConnection),
        (strict, older(Standing::Kept), Decision::PassedKeptConnection),
        (strict, older(Standing::FromOutside), Decision::PassedAnswer),
        (strict, ACCEPTED, Decision::PassedAnswer),
    ] {
        assert_eq!(judge(&policy, &tcp(ACK), &TCP, &Table::default(), &marks), expected, "{marks:?}");
        // What is known of it does not make it a way to open another.
        assert_eq!(judge(&policy, &tcp(SYN), &TCP, &Table::default(), &marks), Decision::DroppedTcpOpen);
    }
    let reset = judge(&strict, &tcp(RST | ACK), &TCP, &Table::default(), &NOTHING);
    assert_eq!(reset, Decision::PassedOlderConnection, "the other side learns that it is over");
    let bypassed = packet(IPPROTO_TCP, "10.0.0.1:80", ACK);
    assert_eq!(judge(&strict, &bypassed, &TCP, &Table::default(), &NOTHING), Decision::PassedRange);
}

#[test]
fn a_listener_answers_who_has_called() {
    let called = Table { spoken: Some(("203.0.113.7:80", Heard::Outside)) };
    // The second: a socket that was captured, failed, and became a server.
    for marks in [NOTHING, CAPTURED] {
        let decided = judge(&POLICY, &tcp(SYN | ACK), &LISTENER, &called, &marks);
        assert_eq!(decided, Decision::PassedAnswer);
    }
    let other = Table { spoken: Some(("203.0.113.7:81", Heard::Outside)) };
    assert_eq!(judge(&POLICY, &tcp(SYN | ACK), &LISTENER, &other, &NOTHING), Decision::DroppedTcpOpen);
}

#[test]
fn where_the_header_says_it_goes() {
    for (protocol, destination, expected) in [
        (IPPROTO_TCP, "10.0.0.1:80", Decision::PassedRange),
        (IPPROTO_TCP, "[fd00::1]:80", Decision::PassedRange),
        (IPPROTO_TCP, "192.0.2.53:53", Decision::PassedResolver),
        (IPPROTO_TCP, "192.0.2.53:54", Decision::DroppedTcpOpen),
        (IPPROTO_TCP, "203.0.113.7:53", Decision::DroppedTcpOpen),
    ] {
        assert_eq!(decide(&packet(protocol, destination, SYN), &TCP, NOTHING), expected, "{destination}");
    }
    for (destination, expected) in [
        ("10.0.0.1:9", Decision::PassedRange),
        ("192.0.2.53:53", Decision::PassedResolver),
        ("[2001:db8::53]:53", Decision::PassedResolver),
        ("192.0.2.53:443", Decision::DroppedDatagram),
        ("203.0.113.7:443", Decision::DroppedDatagram),
        ("[2001:db8::7]:443", Decision::DroppedDatagram),
    ] {
        assert_eq!(decide(&packet(IPPROTO_UDP, destination, 0), &UDP, NOTHING), expected, "{destination}");
    }
}

#[test]
fn a_captured_connection_never_goes_by_a_bypassed_hop() {
    let by_hop = packet(IPPROTO_TCP, "10.0.0.1:80", SYN);
    assert_eq!(decide(&by_hop, &TCP, CAPTURED), Decision::DroppedCaptured);
}

#[test]
fn a_header_that_can_be_source_routed_is_not_bypassed() {
    for (protocol, socket, expected) in [
        (IPPROTO_UDP, UDP, Decision::DroppedDatagram),
        (IPPROTO_TCP, TCP, Decision::DroppedTcpOpen),
        (43, UDP, Decision::DroppedOther),
    ] {
        for destination in ["10.0.0.1:53", "192.0.2.53:53"] {
            let routed = Packet { plain: false, ..packet(protocol, destination, SYN) };
            assert_eq!(decide(&routed, &socket, NOTHING), expected);
        }
    }
}

#[test]
fn loopback_is_free_but_not_without_a_policy() {
    for (protocol, socket) in [(IPPROTO_TCP, TCP), (IPPROTO_UDP, UDP), (1, RAW)] {
        let local = Packet { device: LOOPBACK_DEVICE, ..packet(protocol, "203.0.113.7:80", SYN) };
        assert_eq!(decide(&local, &socket, CAPTURED), Decision::PassedLoopback);
        let nobody = Policy::new(0, 1, 1);
        let judged = judge(&nobody, &local, &socket, &Table::default(), &NOTHING);
        assert_eq!(judged, Decision::DroppedUnclassified);
    }
}

#[test]
fn answers_of_udp_servers() {
    let table = Table { spoken: Some(("198.51.100.9:4242", Heard::Outside)) };
    let answer =
        |destination, socket| judge(&POLICY, &packet(IPPROTO_UDP, destination, 0), socket, &table, &NOTHING);
    assert_eq!(answer("198.51.100.9:4242", &UDP), Decision::PassedDatagramAnswer);
    assert_eq!(answer("198.51.100.9:4243", &UDP), Decision::DroppedDatagram);
    assert_eq!(answer("198.51.100.9:4242", &RAW), Decision::DroppedRaw, "forged by a raw socket");

    let forged = Table { spoken: Some(("198.51.100.9:4242", Heard::Here)) };
    let packet = packet(IPPROTO_UDP, "198.51.100.9:4242", 0);
    assert_eq!(judge(&POLICY, &packet, &UDP, &forged, &NOTHING), Decision::DroppedDatagram);
    let local = Packet { device: LOOPBACK_DEVICE, ..packet };
    assert_eq!(judge(&POLICY, &local, &UDP, &forged, &NOTHING), Decision::PassedLoopback);
}

#[test]
fn what_a_raw_socket_writes_is_never_a_connection() {
    for flags in [SYN, SYN | ACK, ACK] {
        assert_eq!(decide(&tcp(flags), &RAW, ACCEPTED), Decision::DroppedRaw);
    }
    assert_eq!(decide(&packet(IPPROTO_ICMP, "203.0.113.7:0", 8), &RAW, NOTHING), Decision::DroppedIcmp);
    assert_eq!(decide(&packet(136, "203.0.113.7:0", 0), &UDP, NOTHING), Decision::DroppedOther);
}

#[test]
fn neighbour_discovery_only_on_the_link() {
    for (hops, kind, expected) in [
        (255, 133, Decision::PassedNeighbour),
        (255, 136, Decision::PassedNeighbour),
        (255, 137, Decision::PassedNeighbour),
        (255, 128, Decision::DroppedIcmp),
        (64, 135, Decision::DroppedIcmp),
    ] {
        let message = Packet { hops, ..packet(IPPROTO_ICMPV6, "[fe80::1]:0", kind) };
        assert_eq!(decide(&message, &RAW, NOTHING), expected, "type {kind}, hop limit {hops}");
    }
    let report = Packet { listener_discovery: true, plain: false, ..packet(0, "[ff02::16]:0", 0) };
    assert_eq!(decide(&report, &RAW, NOTHING), Decision::PassedNeighbour);
}

#[test]
fn nothing_goes_to_a_resolver_past_the_dns_listeners() {
    let captured = POLICY.with_dns(3000, 3000);
    let query = packet(IPPROTO_UDP, "192.0.2.53:53", 0);
    let open = packet(IPPROTO_TCP, "192.0.2.53:53", SYN);
    for (policy, expected) in [
        (&POLICY, [Decision::PassedResolver; 2]),
        (&captured, [Decision::DroppedDatagram, Decision::DroppedTcpOpen]),
    ] {
        let judged = [(&query, &UDP), (&open, &TCP)]
            .map(|(packet, socket)| judge(policy, packet, socket, &Table::default(), &NOTHING));
        assert_eq!(judged, expected);
    }
}
