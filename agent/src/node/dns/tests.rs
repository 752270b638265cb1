//! What queries are answered with, and that everything else reaches the resolver as it is.

use hickory_resolver::proto::{
    op::{Edns, Message, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, RecordType},
};

use super::*;
use crate::source::tests::load;

const BOTH: Families = Families { v4: true, v6: true };
const MESH: &str = "
apiVersion: egret.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {dns: {capture: true}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: known, namespace: default}
spec: {hosts: [known.test], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: listed, namespace: default}
spec: {hosts: [listed.test], resolution: NONE, addresses: [ADDRESSES], ports: [{number: 80, name: http, protocol: HTTP}]}
";

struct Bench {
    dns: Dns,
    directory: tempfile::TempDir,
}

fn configured(yaml: &str) -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let dns = Dns::load(directory.path().join("synthetic.json"));
    assert!(dns.configure(&load(yaml).snapshot, &["192.0.2.53:53".parse().unwrap()]));
    Bench { dns, directory }
}

fn mesh(addresses: &str) -> String {
    MESH.replace("ADDRESSES", addresses)
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

/// The code and the addresses of the answer; None: it is the resolver's.
fn ask(dns: &Dns, families: Families, query: &Message, datagram: bool) -> Option<(Message, Vec<IpAddr>)> {
    let answer = match dns.resolve("default", families, &query.to_vec().unwrap(), datagram) {
        Outcome::Foreign => return None,
        Outcome::Answered(answer) | Outcome::Failed(answer) => Message::from_vec(&answer).unwrap(),
    };
    assert_eq!((answer.metadata.id, &answer.queries), (query.metadata.id, &query.queries));
    let ips = answer.answers.iter().map(|record| {
        assert_eq!((record.ttl, &record.name), (30, &query.queries[0].name), "as it was asked");
        match &record.data {
            RData::A(ip) => IpAddr::V4(ip.0),
            RData::AAAA(ip) => IpAddr::V6(ip.0),
            other => panic!("{other}"),
        }
    });
    let ips = ips.collect();
    Some((answer, ips))
}

#[test]
fn registered_names_are_answered_and_have_no_other_records() {
    let Bench { dns, .. } = configured(&mesh("192.0.2.1, '2001:db8::1'"));
    for (name, kind, expected) in [
        ("known.test.", RecordType::A, "240.240."),
        ("KNOWN.Test.", RecordType::A, "240.240."),
        ("known.test.", RecordType::AAAA, "2001:2::"),
        ("listed.test.", RecordType::A, "192.0.2.1"),
        ("listed.test.", RecordType::AAAA, "2001:db8::1"),
        ("known.test.", RecordType::HTTPS, ""),
        ("known.test.", RecordType::SVCB, ""),
        ("known.test.", RecordType::MX, ""),
        ("known.test.", RecordType::ANY, ""),
    ] {
        let (answer, ips) = ask(&dns, BOTH, &query(name, kind), true).unwrap();
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.metadata.recursion_available && answer.metadata.recursion_desired);
        let said = ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        assert!(
            said.starts_with(expected) && said.is_empty() == expected.is_empty(),
            "{name} {kind}: {said}"
        );
        if let Some(ip) = ips.first().filter(|_| expected.starts_with("24")) {
            assert_eq!(dns.dialled_host(*ip), Ok(Some("known.test".into())));
        }
    }
}

#[test]
fn everything_else_is_the_resolvers() {
    let Bench { dns, .. } = configured(&mesh("192.0.2.1"));
    for name in [
        "other.test.",
        "sub.known.test.",
        "known.test.default.svc.cluster.local.",
        "known\\.test.",
        "test.",
        ".",
    ] {
        assert!(ask(&dns, BOTH, &query(name, RecordType::A), true).is_none(), "{name}");
    }
    let mut two = query("known.test.", RecordType::A);
    two.add_query(two.queries[0].clone());
    let mut chaos = query("known.test.", RecordType::A);
    chaos.queries[0].set_query_class(DNSClass::CH);
    let mut update = query("known.test.", RecordType::A);
    update.metadata.op_code = OpCode::Notify;
    let mut later = query("known.test.", RecordType::A);
    later.set_edns(Edns::new().set_version(1).clone());
    let answer = query("known.test.", RecordType::A).into_response();
    for message in [two, chaos, update, later, answer] {
        assert!(ask(&dns, BOTH, &message, true).is_none(), "{message:?}");
    }
    for bytes in [&b""[..], b"x", &[0xff; 40]] {
        assert!(matches!(dns.resolve("default", BOTH, bytes, true), Outcome::Foreign));
    }
}

#[test]
fn families_that_the_workload_has_not_are_not_offered() {
    let Bench { dns, .. } = configured(&mesh("192.0.2.1"));
    let v4_only = Families { v4: true, v6: false };
    let count = |kind| ask(&dns, v4_only, &query("known.test.", kind), true).unwrap().1.len();
    assert_eq!((count(RecordType::A), count(RecordType::AAAA)), (1, 0));
}

#[test]
fn what_does_not_fit_into_a_datagram_is_truncated() {
    let many: Vec<_> = (1..=60).map(|number| format!("192.0.2.{number}")).collect();
    let Bench { dns, .. } = configured(&mesh(&many.join(", ")));
    let mut question = query("listed.test.", RecordType::A);
    let (answer, ips) = ask(&dns, BOTH, &question, true).unwrap();
    assert!(answer.metadata.truncation && ips.is_empty());
    let (answer, ips) = ask(&dns, BOTH, &question, false).unwrap();
    assert!(!answer.metadata.truncation && ips.len() == 60 && answer.edns.is_none());
    question.set_edns(Edns::new().set_max_payload(4096).clone());
    let (answer, ips) = ask(&dns, BOTH, &question, true).unwrap();
    assert!(!answer.metadata.truncation && ips.len() == 60 && answer.edns.is_some());
}

#[test]
fn stale_addresses_are_refused_and_say_whose_they_were() {
    let Bench { dns, directory } = configured(&mesh("192.0.2.1"));
    let (_, ips) = ask(&dns, BOTH, &query("known.test.", RecordType::A), true).unwrap();
    let resolvers = ["192.0.2.53:53".parse().unwrap()];
    assert!(
        !dns.configure(&load(&mesh("192.0.2.1").replace("[known.test]", "[new.test]")).snapshot, &resolvers)
    );
    let refusal = dns.dialled_host(ips[0]).unwrap_err();
    assert_eq!(refusal.reason, Reason::StaleAddress);
    assert!(refusal.detail.contains("synthetic address of known.test"), "{refusal}");
    let nobody = dns.dialled_host("2001:2::1".parse().unwrap()).unwrap_err();
    assert_eq!(nobody.reason, Reason::StaleAddress);
    assert_eq!(dns.dialled_host("192.0.2.1".parse().unwrap()), Ok(None));

    // An agent that starts again knows all of it.
    let again = Dns::load(directory.path().join("synthetic.json"));
    again.configure(&load(&mesh("192.0.2.1")).snapshot, &resolvers);
    assert_eq!(again.dialled_host(ips[0]), Ok(Some("known.test".into())));

    // Without capture, addresses are addresses.
    assert!(again.configure(
        &load(&mesh("192.0.2.1").replace("capture: true", "capture: false")).snapshot,
        &resolvers
    ));
    assert_eq!(again.dialled_host(ips[0]), Ok(None));
}

#[test]
fn a_state_file_that_cannot_be_read_is_begun_anew() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("synthetic.json");
    fs::write(&state, "{").unwrap();
    let dns = Dns::load(state);
    dns.configure(&load(&mesh("192.0.2.1")).snapshot, &[]);
    assert_eq!(ask(&dns, BOTH, &query("known.test.", RecordType::A), true).unwrap().1.len(), 1);
}

#[tokio::test]
async fn a_datagram_is_forwarded_as_it_is_and_answered_by_its_id_only() {
    let server = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let at = server.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut query = vec![0; 2000];
        let (length, peer) = server.recv_from(&mut query).await.unwrap();
        query.truncate(length);
        server.send_to(b"\x00\x00other", peer).await.unwrap();
        let mut answer = query.clone();
        answer.resize(4000, 7);
        server.send_to(&answer, peer).await.unwrap();
        query
    });
    let query = [b"\x12\x34".as_slice(), &[9; 1500]].concat();
    let answer = forward::datagram(None, at, &query).await.unwrap();
    assert_eq!(serving.await.unwrap(), query);
    assert_eq!((&answer[..2], answer.len()), (&query[..2], 4000));
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_says_nothing_is_given_up() {
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let error = forward::datagram(None, silent.local_addr().unwrap(), b"xx").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}
