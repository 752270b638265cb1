//! The packet backstop: what leaves, what does not, and that it is nobody else's business.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use crate::{
    lab::{Application, Lab, assert_idle, errno, ip, listen, port},
    outside::{INSIDE, OUTSIDE, Outside, receive, set_up},
};

/// What `start` answers when the connection is being opened.
fn in_progress() -> String {
    format!("ok {}", errno(Errno::EINPROGRESS))
}

/// A client outside that reads everything a server inside sends.
pub(crate) fn read_all(outside: &Outside, address: &str) -> thread::JoinHandle<usize> {
    let address: SocketAddr = address.parse().expect("an address");
    outside.start(move || {
        let mut stream = TcpStream::connect(address).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).expect("read");
        bytes.len()
    })
}

#[test]
fn captured_tcp_works_and_nothing_is_dropped() {
    let Some(lab) = Lab::new("captured_tcp_works_and_nothing_is_dropped") else { return };
    let _outside = Outside::new();
    lab.enrol();
    let mut application = lab.inside();
    for (address, v4) in [("203.0.113.7:80", true), ("[2001:db8:7::7]:443", false)] {
        assert_eq!(application.run(&format!("keep connect {address}")), format!("ok {address}"));
        let (mut stream, original) = lab.take(v4);
        assert_eq!(original, Some(address.parse().unwrap()));
        let echo = thread::spawn(move || {
            let mut bytes = [0; 5];
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
        });
        assert_eq!(application.run("talk hello"), "ok hello");
        echo.join().unwrap();
    }
    let dropped: Vec<_> = lab.counters_like("dropped_");
    assert_eq!(dropped, []);
}

#[test]
fn servers_answer_clients_from_outside() {
    const BYTES: usize = 3 << 20;
    let Some(lab) = Lab::new("servers_answer_clients_from_outside") else { return };
    let outside = Outside::new();
    let (mut older, mut newer) = (lab.inside(), lab.inside());
    for address in INSIDE {
        let at = older.run(&format!("keep listener {address}:0"));
        lab.enrol();
        let client = read_all(&outside, at.strip_prefix("ok ").unwrap());
        assert_eq!(older.run(&format!("serve {BYTES}")), "ok done", "listener older than the enrolment");
        assert_eq!(client.join().unwrap(), BYTES);

        let at = newer.run(&format!("keep listener {address}:0"));
        let client = read_all(&outside, at.strip_prefix("ok ").unwrap());
        assert_eq!(newer.run(&format!("serve {BYTES}")), "ok done");
        assert_eq!(client.join().unwrap(), BYTES);
        lab.capture.detach(lab.cgroup.inode().unwrap()).unwrap();
    }
    assert_eq!(lab.count("accepted"), 4);
    assert_eq!(lab.counters_like("dropped_"), []);
    assert_eq!(lab.count("passed_older_connection"), 0);
}

#[test]
fn servers_answer_when_cookies_are_forced() {
    let Some(lab) = Lab::new("servers_answer_when_cookies_are_forced") else { return };
    let outside = Outside::new();
    fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").unwrap();
    lab.enrol();
    let mut application = lab.inside();
    for address in INSIDE {
        let at = application.run(&format!("keep listener {address}:0"));
        let client = read_all(&outside, at.strip_prefix("ok ").unwrap());
        assert_eq!(application.run("serve 1000"), "ok done");
        assert_eq!(client.join().unwrap(), 1000);
    }
    assert_eq!(lab.count("accepted"), 2);
    assert_eq!(lab.counters_like("dropped_"), []);
    assert_eq!(lab.count("passed_older_connection"), 0);
}

#[test]
fn source_routing_by_a_bypassed_hop_is_no_way_out() {
    let Some(lab) = Lab::new("source_routing_by_a_bypassed_hop_is_no_way_out") else { return };
    let outside = Outside::new();
    let hop = OUTSIDE[0];
    let server = outside.socket(&format!("{hop}:9"));
    let mut application = lab.inside();
    // The control: it can be sent at all.
    assert_eq!(application.run(&format!("send-routed {hop} x 203.0.113.7:9")), "ok done");
    lab.enrol();
    lab.capture.set_bypass(&["198.51.100.0/24".parse().unwrap()]).unwrap();
    assert_eq!(application.run(&format!("send-connected direct {hop}:9")), "ok done");
    assert_eq!(receive(&server).0, "direct");
    assert_eq!(application.run(&format!("send-routed {hop} x 203.0.113.7:9")), errno(Errno::EPERM));
    assert_eq!(application.run(&format!("start-routed {hop} 203.0.113.7:80")), in_progress());
    assert_eq!((lab.count("dropped_datagram"), lab.count("dropped_captured")), (1, 1));
}

#[test]
fn a_connection_older_than_the_enrolment_goes_on_and_is_counted() {
    let Some(lab) = Lab::new("a_connection_older_than_the_enrolment_goes_on_and_is_counted") else { return };
    let outside = Outside::new();
    let mut application = lab.inside();
    let address = format!("{}:0", OUTSIDE[0]);
    let server = outside.run(move || listen(&address));
    let at = server.local_addr().unwrap();
    assert_eq!(application.run(&format!("keep connect {at}")), format!("ok {at}"));
    let (mut stream, _) = server.accept().unwrap();
    lab.enrol();
    let echo = thread::spawn(move || {
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    assert_eq!(application.run("talk hello"), "ok hello");
    echo.join().unwrap();
    assert!(lab.count("passed_older_connection") > 0);
}

#[test]
fn a_connection_that_was_not_captured_does_not_open() {
    let Some(lab) = Lab::new("a_connection_that_was_not_captured_does_not_open") else { return };
    let outside = Outside::new();
    lab.enrol();
    // As if somebody had taken the first lock away.
    let links = lab.links();
    for entry in fs::read_dir(&links).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains("-egret_connect") {
            fs::remove_file(&path).unwrap();
        }
    }
    for address in OUTSIDE {
        let address = format!("{address}:0");
        let server: TcpListener = outside.run(move || listen(&address));
        let at = server.local_addr().unwrap();
        let before = lab.count("dropped_tcp_open");
        let mut application = lab.inside();
        // The links are detached a moment after their pins are gone.
        let deadline = Instant::now() + Duration::from_secs(10);
        while application.run(&format!("start {at}")) != in_progress()
            || lab.count("dropped_tcp_open") == before
        {
            assert!(Instant::now() < deadline, "not dropped");
        }
        assert_idle(&server);
    }
}

#[test]
fn the_answers_of_udp_servers_pass() {
    let Some(lab) = Lab::new("the_answers_of_udp_servers_pass") else { return };
    let outside = Outside::new();
    lab.enrol();
    let mut application = lab.inside();
    for (inside, outer) in INSIDE.iter().zip(OUTSIDE) {
        let at = application.run(&format!("keep server {inside}:0"));
        let at: SocketAddr = at.strip_prefix("ok ").unwrap().parse().unwrap();
        let client = outside.socket(&format!("{outer}:0"));
        let peer = client.local_addr().unwrap();
        client.send_to(b"ping", at).unwrap();
        assert_eq!(application.run("answer pong"), "ok done");
        assert_eq!(receive(&client), ("pong".to_owned(), at));
        // That this peer has spoken to the server says nothing about other sockets of ours, on its port or not: a known limit.
        client.send_to(b"ping", at).unwrap();
        assert_eq!(application.run("answer-connected pong"), errno(Errno::EPERM));
        assert_eq!(application.run(&format!("send no {peer}")), errno(Errno::ECONNREFUSED));

        // A client on the same machine, at an address that is not loopback.
        let client = UdpSocket::bind(format!("{inside}:0")).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.send_to(b"ping", at).unwrap();
        assert_eq!(application.run("answer pong"), "ok done");
        assert_eq!(receive(&client), ("pong".to_owned(), at));
    }
    assert_eq!(lab.count("passed_datagram_answer"), 2);
    assert_eq!(lab.counters_like("dropped_"), [("dropped_datagram", 2)]);
}

#[test]
fn a_peer_that_the_workload_made_up_cannot_be_answered() {
    let Some(lab) = Lab::new("a_peer_that_the_workload_made_up_cannot_be_answered") else { return };
    let outside = Outside::new();
    lab.enrol();
    let (mut server, mut forger) = (lab.inside(), lab.inside());
    let accomplice = outside.socket(&format!("{}:0", OUTSIDE[1]));
    let peer = accomplice.local_addr().unwrap();
    let at = server.run("keep server [::]:0");
    let port = at.rsplit(':').next().unwrap();
    assert_eq!(forger.run(&format!("forge {peer} x [::1]:{port}")), "ok done", "it takes no privilege");
    assert_eq!(server.run("answer escaped"), errno(Errno::EPERM));
    assert_eq!(lab.count("dropped_datagram"), 1);
    // The first that arrives is the one of a process that is not enrolled.
    assert_eq!(Application::start(None).run(&format!("send sibling {peer}")), "ok done");
    assert_eq!(receive(&accomplice).0, "sibling");
}

#[test]
fn a_caller_that_the_workload_made_up_is_not_answered() {
    let Some(lab) = Lab::new("a_caller_that_the_workload_made_up_is_not_answered") else { return };
    let _outside = Outside::new();
    let (mut server, mut forger) = (lab.inside(), lab.inside());
    let at = server.run("keep listener [::]:0");
    let port = at.rsplit(':').next().unwrap();
    lab.enrol();
    let source = format!("{}:4000", OUTSIDE[1]);
    assert_eq!(forger.run(&format!("start-forged {source} [::1]:{port}")), in_progress());
    // The answer of the listener would go to the address outside.
    lab.wait_for_count("dropped_tcp_open", 1);
    assert_eq!(lab.count("passed_answer"), 0);
}

#[test]
fn unsolicited_udp_is_refused_when_it_is_sent() {
    let Some(lab) = Lab::new("unsolicited_udp_is_refused_when_it_is_sent") else { return };
    let outside = Outside::new();
    lab.enrol();
    let (mut application, mut sibling) = (lab.inside(), Application::start(None));
    for address in OUTSIDE {
        let server = outside.socket(&format!("{address}:443"));
        let at = server.local_addr().unwrap();
        assert_eq!(application.run(&format!("datagram {at}")), format!("ok {at}"), "connect() is allowed");
        assert_eq!(application.run(&format!("send escaped {at}")), errno(Errno::ECONNREFUSED));
        assert_eq!(application.run(&format!("send-connected escaped {at}")), errno(Errno::EPERM));
        // Nothing of it has arrived: the first datagram is the one of a process that is not enrolled.
        assert_eq!(sibling.run(&format!("send sibling {at}")), "ok done");
        assert_eq!(receive(&server).0, "sibling");
    }
    let mapped = format!("[::ffff:{}]:443", OUTSIDE[0]);
    assert_eq!(application.run(&format!("send escaped {mapped}")), errno(Errno::ECONNREFUSED));
    assert_eq!((lab.count("refused_datagram"), lab.count("dropped_datagram")), (3, 2));
}

#[test]
fn udp_to_loopback_and_bypassed_ranges_passes() {
    let Some(lab) = Lab::new("udp_to_loopback_and_bypassed_ranges_passes") else { return };
    let outside = Outside::new();
    lab.enrol();
    lab.capture
        .set_bypass(&["198.51.100.0/24".parse().unwrap(), "2001:db8:51::/64".parse().unwrap()])
        .unwrap();
    let mut application = lab.inside();
    for address in OUTSIDE {
        let server = outside.socket(&format!("{address}:9"));
        let at = server.local_addr().unwrap();
        for command in ["send", "send-connected"] {
            assert_eq!(application.run(&format!("{command} {command} {at}")), "ok done");
            assert_eq!(receive(&server).0, command);
        }
    }
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let server = UdpSocket::bind(address).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let at = server.local_addr().unwrap();
        for command in ["send", "send-connected"] {
            assert_eq!(application.run(&format!("{command} {command} {at}")), "ok done");
            assert_eq!(receive(&server).0, command);
        }
    }
    assert_eq!(lab.counters_like("dropped_"), []);
}

#[test]
fn the_configured_resolvers_answer_over_udp_and_tcp() {
    let Some(lab) = Lab::new("the_configured_resolvers_answer_over_udp_and_tcp") else { return };
    let outside = Outside::new();
    lab.enrol();
    let resolvers: Vec<SocketAddr> =
        OUTSIDE.iter().map(|address| format!("{address}:53").parse().unwrap()).collect();
    lab.capture.set_resolvers(&resolvers).unwrap();
    let mut application = lab.inside();
    for at in resolvers {
        let server = outside.socket(&at.to_string());
        let answering = thread::spawn(move || {
            for _ in 0..2 {
                let (question, peer) = receive(&server);
                if question == "question" {
                    server.send_to(b"answer", peer).unwrap();
                }
            }
        });
        assert_eq!(application.run(&format!("send unconnected {at}")), "ok done");
        assert_eq!(application.run(&format!("ask question {at}")), "ok answer");
        answering.join().unwrap();

        let listener = outside.run(move || listen(&at.to_string()));
        assert_eq!(application.connect(&at.to_string()), format!("ok {at}"));
        listener.accept().expect("went direct");

        // Another port of the same host is not a resolver.
        let other = format!("{}:5353", at.ip());
        let other = if at.is_ipv6() { format!("[{}]:5353", at.ip()) } else { other };
        assert_eq!(application.run(&format!("send escaped {other}")), errno(Errno::ECONNREFUSED));
    }
    assert_eq!(lab.count("bypassed_resolver"), 2);

    // Those that are not named any more are gone.
    lab.capture.set_resolvers(&[]).unwrap();
    let at = format!("{}:53", OUTSIDE[0]);
    assert_eq!(application.run(&format!("send escaped {at}")), errno(Errno::ECONNREFUSED));
    assert_eq!(application.connect(&at), format!("ok {at}"));
    assert!(lab.take(true).1.is_some(), "captured");
}

#[test]
fn sockets_that_nobody_could_judge_are_refused() {
    let Some(lab) = Lab::new("sockets_that_nobody_could_judge_are_refused") else { return };
    fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
    let (mut inside, mut outside) = (lab.inside(), Application::start(None));
    lab.enrol();
    // Family, type, protocol; AF_INET is 2, AF_INET6 is 10.
    for (what, expected) in [
        ("2 3 1", Errno::EPERM),
        ("2 3 6", Errno::EPERM),
        ("2 3 255", Errno::EPERM),
        ("10 3 58", Errno::EPERM),
        ("2 2 1", Errno::EACCES),
        ("10 2 58", Errno::EACCES),
        ("2 2 136", Errno::EPROTONOSUPPORT),
        ("10 2 136", Errno::EPROTONOSUPPORT),
        ("2 1 262", Errno::EPROTONOSUPPORT),
        ("10 1 262", Errno::EPROTONOSUPPORT),
        ("2 1 132", Errno::EPROTONOSUPPORT),
        ("2 6 33", Errno::EPROTONOSUPPORT),
    ] {
        let made = outside.run(&format!("socket {what}"));
        if made == "ok made" {
            assert_eq!(inside.run(&format!("socket {what}")), errno(expected), "{what}");
        } else {
            // This kernel does not have it, and says so to everybody.
            assert_eq!(inside.run(&format!("socket {what}")), made, "{what}");
        }
    }
    for name in ["refused_raw_socket", "refused_ping_socket", "refused_mptcp_socket", "refused_socket_class"]
    {
        assert!(lab.count(name) > 0, "{name}");
    }
    // What ordinary programs need: TCP, UDP, unix, netlink.
    for what in ["2 1 0", "2 1 6", "2 2 0", "2 2 17", "10 1 0", "10 2 17", "1 1 0", "1 2 0", "16 3 0"] {
        assert_eq!(inside.run(&format!("socket {what}")), "ok made", "{what}");
    }
}

#[test]
fn sockets_opened_before_the_enrolment_are_no_way_out() {
    let Some(lab) = Lab::new("sockets_opened_before_the_enrolment_are_no_way_out") else { return };
    let outside = Outside::new();
    fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
    let (mut raw, mut ping) = (lab.inside(), lab.inside());
    assert_eq!(raw.run("keep socket 2 3 6"), "ok made");
    assert_eq!(ping.run("keep socket 2 2 1"), "ok made");
    let to = format!("{}:80", OUTSIDE[0]);
    assert_eq!(raw.run(&format!("syn {to}")), "ok done", "the control: it works before");
    assert_eq!(ping.run(&format!("echo {to}")), "ok done", "the control: it works before");
    lab.enrol();
    assert_eq!(raw.run(&format!("syn {to}")), errno(Errno::EPERM));
    assert_eq!(ping.run(&format!("echo {to}")), errno(Errno::EPERM));
    assert_eq!((lab.count("dropped_raw"), lab.count("dropped_icmp")), (1, 1));

    // A connection that is just being opened: its next SYN is dropped.
    let mut opening = lab.inside();
    lab.capture.detach(lab.cgroup.inode().unwrap()).unwrap();
    outside.run(|| ip("route add blackhole 198.51.100.1"));
    assert_eq!(opening.run(&format!("keep start {to}")), in_progress());
    lab.enrol();
    lab.wait_for_count("dropped_tcp_open", 1);
}

#[test]
fn a_network_namespace_made_inside_keeps_its_neighbours_and_lets_nothing_out() {
    let Some(lab) = Lab::new("a_network_namespace_made_inside_keeps_its_neighbours_and_lets_nothing_out")
    else {
        return;
    };
    lab.enrol();
    let mut application = lab.inside();
    // The kernel's own sockets of this namespace are of the enrolled cgroup.
    assert_eq!(application.run("own-network"), "ok done");
    let theirs = Outside::of_process(application.id());
    let id = application.id();
    ip(&format!("link add inner type veth peer name theirs netns {id}"));
    set_up("inner", INSIDE);
    theirs.run(|| set_up("theirs", OUTSIDE));
    for address in OUTSIDE {
        let at: SocketAddr = format!("{address}:9").parse().unwrap();
        // A reset and "port unreachable" come back, for which IPv6 needs the neighbour's discovery in both directions.
        let refused = TcpStream::connect_timeout(&at, Duration::from_secs(10)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{at}: {refused}");
        let socket = UdpSocket::bind(if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.connect(at).unwrap();
        socket.send(b"x").unwrap();
        assert_eq!(socket.recv(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused, "{at}");
    }
    assert!(lab.count("passed_neighbour") > 0);
    assert_eq!(lab.counters_like("dropped_"), []);

    // Nobody listens for it there, so it is refused, not let out.
    for address in INSIDE {
        let server = listen(&format!("{address}:0"));
        let at = server.local_addr().unwrap();
        assert_eq!(application.connect(&at.to_string()), errno(Errno::ECONNREFUSED));
        assert_eq!(application.run(&format!("send escaped {at}")), errno(Errno::ECONNREFUSED));
        assert_idle(&server);
    }
}

#[test]
fn a_sibling_is_untouched_and_after_detach_everything_works() {
    let Some(lab) = Lab::new("a_sibling_is_untouched_and_after_detach_everything_works") else { return };
    let outside = Outside::new();
    fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
    let everything = |application: &mut Application| {
        for address in OUTSIDE {
            let server = outside.socket(&format!("{address}:0"));
            let at = server.local_addr().unwrap();
            for command in ["send", "send-connected"] {
                assert_eq!(application.run(&format!("{command} {command} {at}")), "ok done");
                assert_eq!(receive(&server).0, command);
            }
            let address = format!("{address}:0");
            let server = outside.run(move || listen(&address));
            let at = server.local_addr().unwrap();
            assert_eq!(application.connect(&at.to_string()), format!("ok {at}"));
            server.accept().expect("went direct");
        }
        for class in ["2 3 6", "2 2 1", "10 3 58", "2 2 136"] {
            assert_eq!(application.run(&format!("socket {class}")), "ok made", "{class}");
        }
    };
    let mut inside = lab.inside();
    everything(&mut inside);
    lab.enrol();
    // A cgroup beside the enrolled one, and a process in none of ours.
    let sibling = egret_tests::cgroup::Cgroup::new().unwrap();
    everything(&mut Application::start(Some(&sibling)));
    everything(&mut Application::start(None));
    assert_eq!(lab.counters_like(""), [], "no program ran");
    let at = format!("{}:{}", OUTSIDE[0], port(&lab.listener_v4));
    assert_eq!(inside.run(&format!("send no {at}")), errno(Errno::ECONNREFUSED), "the control");
    lab.capture.detach(lab.cgroup.inode().unwrap()).unwrap();
    everything(&mut inside);
}
