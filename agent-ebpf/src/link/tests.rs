//! Every rule of the lock, the order between them, and what is learnt.

extern crate std;

use std::vec::Vec;

use super::*;
use crate::{
    header::{V4_LENGTH, V6_LENGTH},
    testing::{Table, endpoint},
};

/// The workload is 192.0.2.10 and 2001:db8:1::10, the gateway 198.51.100.15:15008.
#[derive(Default)]
struct Known {
    without_entry: bool,
    flows: Vec<(u32, &'static str, &'static str, Spoken)>,
    neighbour: Option<&'static str>,
}

impl Link for Known {
    fn locked(&self) -> bool {
        !self.without_entry
    }

    fn gateway(&self, destination: &Endpoint) -> bool {
        *destination == endpoint("198.51.100.15:15008")
    }

    fn owns(&self, address: &[u8; 16]) -> bool {
        ["192.0.2.10:0", "[2001:db8:1::10]:0"].iter().any(|own| endpoint(own).address() == *address)
    }

    fn flow(&self, protocol: u8, local: Endpoint, peer: Endpoint, _: Option<u32>) -> Spoken {
        let known = |(of, at, from, _): &&(u32, &str, &str, Spoken)| {
            u32::from(protocol) == *of && local == endpoint(at) && peer == endpoint(from)
        };
        self.flows.iter().find(known).map(|flow| flow.3).unwrap_or_default()
    }

    fn neighbour(&self, address: &[u8; 16]) -> bool {
        self.neighbour.is_some_and(|known| endpoint(known).address() == *address)
    }
}

fn frame(protocol: u32, source: &str, destination: &str, detail: u8) -> Frame {
    let (from, to) = (endpoint(source), endpoint(destination));
    let v4 = from.address_v4().is_some();
    Frame {
        device: 4,
        kind: if v4 { Kind::V4 } else { Kind::V6 },
        header: Header {
            source: from.address(),
            destination: to.address(),
            protocol: protocol as u8,
            hops: 64,
            length: if v4 { V4_LENGTH as u32 } else { V6_LENGTH as u32 },
            plain: true,
        },
        fragment: false,
        cut: false,
        source: from.port(),
        destination: to.port(),
        detail,
        sequence: 0,
        acknowledgement: 0,
        listener_discovery: false,
        quote: Quote::NONE,
    }
}

fn decide(frame: &Frame, known: &Known) -> Decision {
    judge(frame, &Table::default(), known)
}

const V4: &str = "192.0.2.10:4242";
const V6: &str = "[2001:db8:1::10]:4242";

#[test]
fn where_the_workload_may_go_by_itself() {
    for (protocol, source, destination, expected) in [
        (IPPROTO_TCP, V4, "198.51.100.15:15008", Decision::LinkPassedTunnel),
        (IPPROTO_TCP, V4, "198.51.100.15:15009", Decision::LinkDroppedDestination),
        (IPPROTO_UDP, V4, "198.51.100.15:15008", Decision::LinkDroppedDestination),
        (IPPROTO_TCP, V4, "10.0.0.1:80", Decision::LinkPassedDirect),
        (IPPROTO_UDP, V6, "[fd00::1]:9", Decision::LinkPassedDirect),
        (IPPROTO_ICMP, V4, "10.0.0.1:0", Decision::LinkPassedDirect),
        (IPPROTO_ICMPV6, V6, "[fd00::1]:0", Decision::LinkPassedDirect),
        (IPPROTO_UDP, V4, "192.0.2.53:53", Decision::LinkPassedDirect),
        (IPPROTO_TCP, V6, "[2001:db8::53]:53", Decision::LinkPassedDirect),
        (IPPROTO_UDP, V4, "192.0.2.53:54", Decision::LinkDroppedDestination),
        (IPPROTO_TCP, V4, "203.0.113.7:80", Decision::LinkDroppedDestination),
        (IPPROTO_UDP, V6, "[2001:db8:7::7]:443", Decision::LinkDroppedDestination),
        (IPPROTO_ICMP, V4, "203.0.113.7:0", Decision::LinkDroppedDestination),
        // Carriers of other packets, also to where others may go; ICMP of the other family.
        (4, V4, "10.0.0.1:0", Decision::LinkDroppedOther),
        (47, V6, "[fd00::1]:0", Decision::LinkDroppedOther),
        (IPPROTO_ICMPV6, V4, "10.0.0.1:0", Decision::LinkDroppedOther),
        (IPPROTO_ICMP, V6, "[fd00::1]:0", Decision::LinkDroppedOther),
    ] {
        let decided = decide(&frame(protocol, source, destination, SYN), &Known::default());
        assert_eq!(decided, expected, "{protocol} {source} {destination}");
    }
}

#[test]
fn an_address_that_is_not_the_workloads_gets_no_answers_sent() {
    for (protocol, destination) in
        [(IPPROTO_TCP, "198.51.100.15:15008"), (IPPROTO_ICMP, "10.0.0.1:0"), (IPPROTO_UDP, "192.0.2.53:53")]
    {
        let forged = frame(protocol, "203.0.113.7:4242", destination, SYN);
        assert_eq!(decide(&forged, &Known::default()), Decision::LinkDroppedSource, "{destination}");
    }
    let local = frame(IPPROTO_UDP, "[fe80::1]:546", "[fd00::1]:547", 0);
    assert_eq!(
        decide(&local, &Known::default()),
        Decision::LinkPassedDirect,
        "cannot be answered off the link"
    );
}

#[test]
fn without_an_entry_nothing_passes() {
    let known = Known { without_entry: true, ..Known::default() };
    let arp = Frame { kind: Kind::Arp, ..frame(0, V4, V4, 0) };
    for frame in [arp, frame(IPPROTO_TCP, V4, "198.51.100.15:15008", SYN)] {
        assert_eq!(decide(&frame, &known), Decision::LinkDroppedUnclassified);
    }
    assert_eq!(decide(&arp, &Known::default()), Decision::LinkPassedNeighbour);
}

#[test]
fn what_cannot_be_judged_is_dropped() {
    let to_gateway = frame(IPPROTO_TCP, V4, "198.51.100.15:15008", SYN);
    for (frame, expected) in [
        (Frame { kind: Kind::Other, ..to_gateway }, Decision::LinkDroppedOther),
        (Frame { cut: true, ..to_gateway }, Decision::LinkDroppedOther),
        (Frame { header: Header::NONE, ..to_gateway }, Decision::LinkDroppedOther),
        // An IPv6 header with IPv4's addresses.
        (Frame { kind: Kind::V6, ..to_gateway }, Decision::LinkDroppedOther),
        (
            Frame { header: Header { length: 24, plain: false, ..to_gateway.header }, ..to_gateway },
            Decision::LinkDroppedHeader,
        ),
    ] {
        assert_eq!(decide(&frame, &Known::default()), expected, "{frame:?}");
    }
    let routed = frame(43, V6, "[fd00::1]:0", 0);
    let routed = Frame { header: Header { plain: false, ..routed.header }, ..routed };
    assert_eq!(decide(&routed, &Known::default()), Decision::LinkDroppedHeader);
}

#[test]
fn fragments_go_by_their_address_alone() {
    for (protocol, source, destination, expected) in [
        (IPPROTO_UDP, V4, "10.0.0.1:9", Decision::LinkPassedDirect),
        (IPPROTO_UDP, V6, "[fd00::1]:9", Decision::LinkPassedDirect),
        (IPPROTO_UDP, V4, "192.0.2.53:53", Decision::LinkDroppedHeader),
        (IPPROTO_TCP, V4, "198.51.100.15:15008", Decision::LinkDroppedHeader),
        (IPPROTO_UDP, V4, "203.0.113.7:4000", Decision::LinkDroppedHeader),
        (43, V6, "[fd00::1]:9", Decision::LinkDroppedOther),
    ] {
        let whole = frame(protocol, source, destination, SYN);
        let part = Frame { fragment: true, header: Header { plain: false, ..whole.header }, ..whole };
        let known =
            Known { flows: [(protocol, source, destination, Spoken::First)].into(), ..Known::default() };
        assert_eq!(decide(&part, &known), expected, "{protocol} {destination}");
    }
}

#[test]
fn flows_that_came_in_are_answered() {
    const PEER: &str = "203.0.113.7:4000";
    let known = |protocol, spoken| Known { flows: [(protocol, V4, PEER, spoken)].into(), ..Known::default() };
    for (protocol, flags, spoken, expected) in [
        (IPPROTO_TCP, SYN | ACK, Spoken::First, Decision::LinkPassedAnswer),
        (IPPROTO_TCP, ACK, Spoken::First, Decision::LinkPassedAnswer),
        (IPPROTO_TCP, 0x04, Spoken::First, Decision::LinkPassedAnswer),
        (IPPROTO_TCP, ACK, Spoken::Older, Decision::LinkPassedOlderConnection),
        (IPPROTO_TCP, SYN, Spoken::First, Decision::LinkDroppedDestination),
        (IPPROTO_TCP, SYN, Spoken::Older, Decision::LinkDroppedDestination),
        (IPPROTO_TCP, ACK, Spoken::Never, Decision::LinkDroppedDestination),
        (IPPROTO_UDP, 0, Spoken::First, Decision::LinkPassedAnswer),
        (IPPROTO_UDP, 0, Spoken::Never, Decision::LinkDroppedDestination),
    ] {
        let decided = decide(&frame(protocol, V4, PEER, flags), &known(protocol, spoken));
        assert_eq!(decided, expected, "{protocol} {flags:#x} {spoken:?}");
    }
    for (source, destination) in
        [("192.0.2.10:4243", PEER), (V4, "203.0.113.7:4001"), ("192.0.2.11:4242", PEER)]
    {
        let other = frame(IPPROTO_UDP, source, destination, 0);
        let decided = decide(&other, &known(IPPROTO_UDP, Spoken::First));
        assert_eq!(decided, Decision::LinkDroppedDestination, "{source} {destination}");
    }
}

#[test]
fn echoes_and_errors_answer_too() {
    let echo = (IPPROTO_ICMPV6, V6, "[2001:db8:7::7]:0", Spoken::First);
    let asked = (IPPROTO_UDP, V4, "203.0.113.7:4000", Spoken::First);
    let known = Known { flows: [echo, asked].into(), ..Known::default() };
    let reply = frame(IPPROTO_ICMPV6, V6, "[2001:db8:7::7]:0", ECHO_REPLY_V6);
    assert_eq!(decide(&reply, &known), Decision::LinkPassedAnswer);
    let request = Frame { detail: ECHO_REQUEST_V6, ..reply };
    assert_eq!(decide(&request, &known), Decision::LinkDroppedDestination);

    let quote = Quote { protocol: IPPROTO_UDP as u8, source: 4000, destination: 4242 };
    let error = Frame { quote, ..frame(IPPROTO_ICMP, "192.0.2.10:0", "203.0.113.7:0", UNREACHABLE) };
    assert_eq!(decide(&error, &known), Decision::LinkPassedAnswer);
    let elsewhere = Frame { quote, ..frame(IPPROTO_ICMP, "192.0.2.10:0", "203.0.113.8:0", UNREACHABLE) };
    assert_eq!(decide(&elsewhere, &known), Decision::LinkDroppedDestination);
    let unasked = Frame { quote: Quote { source: 4001, ..quote }, ..error };
    assert_eq!(decide(&unasked, &known), Decision::LinkDroppedDestination);
    assert_eq!(decide(&Frame { quote: Quote::NONE, ..error }, &known), Decision::LinkDroppedDestination);

    let quoted = frame(IPPROTO_UDP, "203.0.113.7:4000", V4, 0).header;
    assert!(is_between(&quoted, &error.header));
    assert!(!is_between(&quoted, &elsewhere.header));
    assert!(!is_between(&Header { plain: false, ..quoted }, &error.header));
}

#[test]
fn neighbour_discovery_stays_on_the_link() {
    let known = Known { neighbour: Some("[2001:db8:1::1]:0"), ..Known::default() };
    for (hops, kind, to, expected) in [
        (255, 133, "[ff02::2]:0", Decision::LinkPassedNeighbour),
        (255, 135, "[ff02::1:ff00:1]:0", Decision::LinkPassedNeighbour),
        (255, 136, "[fe80::1]:0", Decision::LinkPassedNeighbour),
        (255, 135, "[2001:db8:1::1]:0", Decision::LinkPassedNeighbour),
        (255, 135, "[2001:db8:7::7]:0", Decision::LinkDroppedDestination),
        (255, 134, "[ff02::1]:0", Decision::LinkDroppedDestination),
        (255, 137, "[fe80::1]:0", Decision::LinkDroppedDestination),
        (255, 135, "[ff05::2]:0", Decision::LinkDroppedDestination),
        (64, 135, "[ff02::2]:0", Decision::LinkDroppedDestination),
    ] {
        let whole = frame(IPPROTO_ICMPV6, V6, to, kind);
        let message = Frame { header: Header { hops, ..whole.header }, ..whole };
        assert_eq!(decide(&message, &known), expected, "type {kind} to {to}, hop limit {hops}");
    }
    let report = frame(0, "[fe80::10]:0", "[ff02::16]:0", 0);
    let report = Frame { header: Header { plain: false, ..report.header }, ..report };
    assert_eq!(decide(&Frame { listener_discovery: true, ..report }, &known), Decision::LinkPassedNeighbour);
    assert_eq!(decide(&report, &known), Decision::LinkDroppedHeader);
}

#[test]
fn what_comes_in_teaches() {
    let of = |protocol, detail| lesson(&frame(protocol, "203.0.113.7:4000", V4, detail));
    assert_eq!(of(IPPROTO_TCP, SYN), Lesson::Heard);
    assert_eq!(of(IPPROTO_TCP, SYN | ACK), Lesson::GoesOn);
    assert_eq!(of(IPPROTO_TCP, ACK), Lesson::GoesOn);
    assert_eq!(of(IPPROTO_UDP, 0), Lesson::Heard);
    assert_eq!(of(IPPROTO_ICMP, ECHO_REQUEST), Lesson::Heard);
    assert_eq!(of(IPPROTO_ICMP, ECHO_REPLY), Lesson::Nothing);
    assert_eq!(of(47, 0), Lesson::Nothing);
    let udp = frame(IPPROTO_UDP, "203.0.113.7:4000", V4, 0);
    assert_eq!(lesson(&Frame { cut: true, ..udp }), Lesson::Nothing);
    assert_eq!(lesson(&Frame { fragment: true, ..udp }), Lesson::Nothing);
    assert_eq!(lesson(&Frame { kind: Kind::Other, ..udp }), Lesson::Nothing);
    assert_eq!(ends(&udp), (endpoint(V4), endpoint("203.0.113.7:4000")));
    let echo = frame(IPPROTO_ICMP, "203.0.113.7:77", V4, ECHO_REQUEST);
    assert_eq!(ends(&echo), (endpoint("192.0.2.10:77"), endpoint("203.0.113.7:0")));

    for (hops, kind, expected) in
        [(255, 136, Lesson::Neighbour), (254, 136, Lesson::Nothing), (255, 137, Lesson::Nothing)]
    {
        let whole = frame(IPPROTO_ICMPV6, "[2001:db8:1::1]:0", V6, kind);
        assert_eq!(lesson(&Frame { header: Header { hops, ..whole.header }, ..whole }), expected);
    }
}

#[test]
fn only_who_has_seen_the_answer_proves_itself() {
    let heard = Heard::new(5).answered(u32::MAX);
    let ack = |acknowledgement, detail| {
        let whole = frame(IPPROTO_TCP, "203.0.113.7:4000", V4, detail);
        proves(&Frame { acknowledgement, ..whole }, &heard)
    };
    assert!(!proves(&frame(IPPROTO_TCP, V4, V4, ACK), &Heard::new(5)), "no SYN-ACK has been sent");
    let heard_of = Heard::new(5).answered(99);
    let exact = Frame { acknowledgement: 100, ..frame(IPPROTO_TCP, V4, V4, ACK) };
    assert!(proves(&exact, &heard_of));
    assert!(proves(&Frame { acknowledgement: 5000, ..exact }, &heard_of), "with data in the SYN-ACK");
    assert!(!proves(&Frame { acknowledgement: 99, ..exact }, &heard_of));
    assert!(!proves(&Frame { detail: 0x04, ..exact }, &heard_of));
    // One in four billion: the number that stands for none. It stays among the unproved.
    assert!(!ack(0, ACK));
}

#[test]
fn what_was_heard_grows_old() {
    let heard = Heard::new(1000);
    assert_eq!(spoken(&heard, 1000 + HEARD_AGE, HEARD_AGE), Spoken::First);
    assert_eq!(spoken(&heard, 1001 + HEARD_AGE, HEARD_AGE), Spoken::Never);
    assert_eq!(spoken(&heard.again(2000), 2000 + HEARD_AGE, HEARD_AGE), Spoken::First);
    assert_eq!(spoken(&heard, 0, HEARD_AGE), Spoken::First, "another CPU's clock is a little ahead");
    assert_eq!(spoken(&heard.older(), 1000, FLOW_AGE), Spoken::Older);
}

#[test]
fn arp_and_nothing_hidden_behind_it() {
    assert!(is_arp(&[0, 1, 8, 0, 6, 4], 42));
    assert!(is_arp(&[0, 1, 8, 0, 6, 4], 60));
    assert!(!is_arp(&[0, 1, 8, 0, 6, 4], 61));
    assert!(!is_arp(&[0, 1, 0x86, 0xdd, 6, 16], 42));
}

#[test]
fn fragments_are_told_from_what_must_not_be_cut() {
    assert!(!is_fragment([0x40, 0]), "must not be cut");
    assert!(is_fragment([0x20, 0]), "the first");
    assert!(is_fragment([0, 1]), "the last");
}
