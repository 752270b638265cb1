//! DNS capture: what goes to a resolver goes to its listener, and what the listener says comes from the resolver.

use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    path::Path,
    thread,
    time::Duration,
};

use egret::datapath::{DnsListeners, Numbered, WorkloadPolicy};
use nix::errno::Errno;

use crate::{
    lab::{Application, Lab, WORKLOAD, errno, listen},
    outside::{OUTSIDE, Outside, receive},
};

const V4: [&str; 3] = ["192.0.2.53:53", "192.0.2.54:5353", "127.0.0.53:53"];
const V6: [&str; 2] = ["[2001:db8::53]:53", "[2001:db8::54]:53"];

/// Sockets on consecutive ports of an address, UDP and TCP, which tell themselves apart in what they answer.
struct Listeners {
    first: u16,
    tcp: Vec<TcpListener>,
}

impl Listeners {
    /// Datagrams are answered until the test's process ends, or by nobody.
    fn bind(address: &str, count: u16, answering: bool) -> Self {
        let ports = |first: u16| -> std::io::Result<Vec<(UdpSocket, TcpListener)>> {
            (first..first + count)
                .map(|port| {
                    let at: SocketAddr = format!("{address}:{port}").parse().expect("an address");
                    Ok((UdpSocket::bind(at)?, TcpListener::bind(at)?))
                })
                .collect()
        };
        let (first, bound) = (20_000..30_000)
            .step_by(16)
            .find_map(|first| Some((first, ports(first).ok()?)))
            .expect("free ports");
        let mut tcp = Vec::new();
        for (number, (udp, listener)) in bound.into_iter().enumerate() {
            tcp.push(listen_again(listener));
            if answering {
                thread::spawn(move || answer(&udp, number));
            }
        }
        Self { first, tcp }
    }
}

/// Gives up accepting, as the lab's listeners do.
fn listen_again(listener: TcpListener) -> TcpListener {
    let at = listener.local_addr().expect("address").to_string();
    drop(listener);
    listen(&at)
}

fn answer(socket: &UdpSocket, number: usize) {
    let mut question = [0; 64];
    while let Ok((length, peer)) = socket.recv_from(&mut question) {
        let text = String::from_utf8_lossy(&question[..length]);
        // It may be gone already.
        let _ = socket.send_to(format!("{number}:{text}").as_bytes(), peer);
    }
}

fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().expect("an address")).collect()
}

/// Enrols the lab's cgroup, as [`enrol_at`].
fn enrol(lab: &Lab, answering: bool) -> [Listeners; 2] {
    enrol_at(lab, lab.cgroup.path(), answering)
}

/// Enrols with listeners for the resolvers above, which answer or are not there.
fn enrol_at(lab: &Lab, cgroup: &Path, answering: bool) -> [Listeners; 2] {
    let resolvers = addresses(&[V6[0], V4[0], V4[1], V6[1], V4[2]]);
    lab.capture.set_resolvers(&resolvers).expect("resolvers");
    let numbered = Numbered::new(&resolvers);
    assert_eq!((numbered.v4, numbered.v6), (addresses(&V4), addresses(&V6)));
    let listeners = [("127.0.0.1", 3), ("[::1]", 2)].map(|(at, count)| Listeners::bind(at, count, answering));
    let dns = Some(DnsListeners { v4: listeners[0].first, v6: listeners[1].first });
    lab.capture.attach(cgroup, &WorkloadPolicy { dns, ..lab.policy() }).expect("attached");
    listeners
}

#[test]
fn with_nested_enrolled_cgroups_the_inner_ones_listeners_are_asked() {
    let Some(lab) = Lab::new("with_nested_enrolled_cgroups_the_inner_ones_listeners_are_asked") else {
        return;
    };
    let _outer = enrol(&lab, false);
    let inner = lab.cgroup.child("inner").expect("a child");
    let _inner = enrol_at(&lab, inner.path(), true);
    let mut application = Application::start(Some(&inner));
    for (number, address) in V4.iter().enumerate().chain(V6.iter().enumerate()) {
        assert_eq!(application.run(&format!("ask hello {address}")), format!("ok {number}:hello"));
        assert_eq!(application.run(&format!("datagram {address}")), format!("ok {address}"));
        assert_eq!(application.run(&format!("ask-all x {address}")), format!("ok {number}:x from {address}"));
        assert_eq!(application.connect(address), format!("ok {address}"));
    }
    drop(application);
    lab.capture.detach(inner.inode().expect("inode")).expect("detached");
}

#[test]
fn connected_queries_reach_the_listener_of_their_resolver() {
    let Some(lab) = Lab::new("connected_queries_reach_the_listener_of_their_resolver") else { return };
    let _listeners = enrol(&lab, true);
    let mut application = lab.inside();
    for (number, address) in V4.iter().enumerate().chain(V6.iter().enumerate()) {
        assert_eq!(application.run(&format!("ask hello {address}")), format!("ok {number}:hello"));
        assert_eq!(application.run(&format!("datagram {address}")), format!("ok {address}"), "getpeername");
    }
    let mapped = "[::ffff:192.0.2.54]:5353";
    assert_eq!(application.run(&format!("ask hello {mapped}")), "ok 1:hello");
    assert_eq!(application.run(&format!("datagram {mapped}")), format!("ok {mapped}"));
    // recvfrom() of a connected socket names the source, too.
    assert_eq!(lab.count("source_restored"), 6);
    assert_eq!(lab.count("captured_resolver"), 12);
    assert_eq!(lab.counters_like("dropped_"), []);
}

#[test]
fn one_socket_may_ask_several_resolvers_at_once() {
    let Some(lab) = Lab::new("one_socket_may_ask_several_resolvers_at_once") else { return };
    let _listeners = enrol(&lab, true);
    let mut application = lab.inside();
    let v4 = format!("ok 0:x from {}, 1:x from {}, 2:x from {}", V4[0], V4[1], V4[2]);
    let mapped = ["[::ffff:192.0.2.53]:53", "[::ffff:192.0.2.54]:5353"];
    let both =
        format!("ok 0:x from {}, 0:x from {}, 1:x from {}, 1:x from {}", V6[0], mapped[0], V6[1], mapped[1]);
    for command in ["ask-all", "ask-batch"] {
        assert_eq!(application.run(&format!("{command} x {}", V4.join(" "))), v4);
        let said = application.run(&format!("{command} x {} {}", mapped.join(" "), V6.join(" ")));
        assert_eq!(said, both, "{command}");
    }
    assert_eq!(lab.count("captured_query"), 14);
    assert_eq!(lab.count("source_restored"), 14);
}

#[test]
fn dns_over_tcp_reaches_the_listener_of_its_resolver_and_is_not_published() {
    let Some(lab) = Lab::new("dns_over_tcp_reaches_the_listener_of_its_resolver_and_is_not_published") else {
        return;
    };
    let [v4, v6] = enrol(&lab, true);
    let mut application = lab.inside();
    let mapped = "[::ffff:192.0.2.53]:53";
    for (address, listener) in [
        (V4[0], &v4.tcp[0]),
        (V4[1], &v4.tcp[1]),
        (V4[2], &v4.tcp[2]),
        (V6[0], &v6.tcp[0]),
        (V6[1], &v6.tcp[1]),
        (mapped, &v4.tcp[0]),
    ] {
        assert_eq!(application.connect(address), format!("ok {address}"), "getpeername");
        let (_stream, peer) = listener.accept().expect("at the listener of its resolver");
        let port = listener.local_addr().expect("address").port();
        assert_eq!(
            lab.capture.take_original_destination(WORKLOAD, peer, port).map(|taken| taken.destination),
            None
        );
    }
    assert_eq!(lab.count("published"), 0);
    // Another port of a resolver's host is a destination like any other.
    assert_eq!(application.connect("192.0.2.53:80"), "ok 192.0.2.53:80");
    assert_eq!(lab.take(true).1, Some("192.0.2.53:80".parse().unwrap()));
}

#[test]
fn without_the_agent_queries_are_refused_at_once() {
    let Some(lab) = Lab::new("without_the_agent_queries_are_refused_at_once") else { return };
    let listeners = enrol(&lab, false);
    drop(listeners);
    let mut application = lab.inside();
    for address in V4.iter().chain(&V6) {
        let refused = errno(Errno::ECONNREFUSED);
        assert_eq!(application.run(&format!("send hello {address}")), refused, "{address}");
        assert_eq!(application.run(&format!("ask hello {address}")), refused, "{address}, connected");
        assert_eq!(application.connect(address), refused, "{address}, TCP");
    }
    // Nobody has configured these.
    for address in ["192.0.2.99:53", "[2001:db8::99]:53"] {
        assert_eq!(application.run(&format!("send escaped {address}")), errno(Errno::ECONNREFUSED));
    }
}

#[test]
fn with_dns_captured_no_socket_reaches_a_resolver_itself() {
    let Some(lab) = Lab::new("with_dns_captured_no_socket_reaches_a_resolver_itself") else { return };
    let outside = Outside::new();
    let resolvers = addresses(&OUTSIDE.map(|address| format!("{address}:53")).each_ref().map(String::as_str));
    lab.capture.set_resolvers(&resolvers).expect("resolvers");
    lab.enrol();
    let mut application = lab.inside();
    for resolver in &resolvers {
        let server = outside.socket(&resolver.to_string());
        // A socket of the time before, by which the control arrives.
        lab.capture.set_policy(lab.cgroup.path(), &lab.policy()).expect("policy");
        assert_eq!(application.run(&format!("keep datagram {resolver}")), format!("ok {resolver}"));
        assert_eq!(application.run("tell before"), "ok done");
        assert_eq!(receive(&server).0, "before");
        let dns = Some(DnsListeners { v4: 9, v6: 9 });
        lab.capture.set_policy(lab.cgroup.path(), &WorkloadPolicy { dns, ..lab.policy() }).expect("policy");
        assert_eq!(application.run("tell after"), errno(Errno::EPERM));
        server.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
        assert!(server.recv_from(&mut [0; 64]).is_err(), "{resolver}");
    }
    assert_eq!(lab.count("dropped_datagram"), 2);
}
