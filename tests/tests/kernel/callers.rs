//! Who has called from outside is answered, whatever way the connection is made: what a listening socket remembers of its callers is
//! there when its connections are.

use std::{
    fs,
    io::Read as _,
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    libc::MSG_FASTOPEN,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, sendto, setsockopt, socket,
        sockopt::ReceiveTimeout,
    },
    sys::time::{TimeVal, TimeValLike as _},
};

use crate::{
    backstop::read_all,
    lab::{Lab, errno},
    outside::{INSIDE, OUTSIDE, Outside},
};

/// Fast Open for clients and servers, without cookies, for every listener.
const FAST_OPEN: &str = "1543";

/// How many connections this thread's network namespace has accepted with the SYN.
fn opened_fast() -> u64 {
    let counters = fs::read_to_string("/proc/thread-self/net/netstat").expect("counters");
    let mut lines = counters.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(name, _)| *name == "TCPFastOpenPassive").expect("the counter");
    value.parse().expect("a number")
}

/// A client outside that speaks with its SYN, and reads all that it is told.
fn speak_first(outside: &Outside, address: &str) -> thread::JoinHandle<usize> {
    let address: SocketAddr = address.parse().expect("an address");
    outside.start(move || {
        fs::write("/proc/sys/net/ipv4/tcp_fastopen", FAST_OPEN).expect("written");
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Stream, SockFlag::empty(), None).expect("a socket");
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(10)).expect("a timeout");
        let flags = MsgFlags::from_bits_retain(MSG_FASTOPEN);
        sendto(socket.as_raw_fd(), b"hello", &SockaddrStorage::from(address), flags).expect("sent");
        let mut bytes = Vec::new();
        // The server has not read what we said, so that it ends with a reset.
        let end = fs::File::from(socket).read_to_end(&mut bytes).expect_err("an end");
        assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
        bytes.len()
    })
}

#[test]
fn who_speaks_with_the_syn_is_answered() {
    let Some(lab) = Lab::new("who_speaks_with_the_syn_is_answered") else { return };
    let outside = Outside::new();
    fs::write("/proc/sys/net/ipv4/tcp_fastopen", FAST_OPEN).unwrap();
    let mut application = lab.inside();
    for (address, accepted) in INSIDE.iter().zip(1..) {
        // Its first caller ever: the connection is made while the SYN is being received.
        let at = application.run(&format!("keep listener {address}:0"));
        lab.enrol();
        let client = speak_first(&outside, at.strip_prefix("ok ").unwrap());
        assert_eq!(application.run("serve 1000"), "ok done");
        assert_eq!(client.join().unwrap(), 1000);
        assert_eq!(opened_fast(), accepted, "the control: it was opened fast");
        lab.capture.detach(lab.cgroup.inode().unwrap()).unwrap();
    }
    assert_eq!(lab.count("accepted"), 2);
    assert_eq!(lab.counters_like("dropped_"), []);
    assert_eq!(lab.count("passed_older_connection"), 0);
}

#[test]
fn a_multipath_listener_older_than_the_enrolment_answers() {
    let Some(lab) = Lab::new("a_multipath_listener_older_than_the_enrolment_answers") else { return };
    let outside = Outside::new();
    let mut application = lab.inside();
    for address in INSIDE {
        let at = application.run(&format!("keep listener-multipath {address}:0"));
        if at == errno(Errno::EPROTONOSUPPORT) {
            eprintln!("left out: Multipath TCP (not in this kernel)");
            return;
        }
        lab.enrol();
        let client = read_all(&outside, at.strip_prefix("ok ").unwrap());
        assert_eq!(application.run("serve 1000"), "ok done");
        assert_eq!(client.join().unwrap(), 1000);
        lab.capture.detach(lab.cgroup.inode().unwrap()).unwrap();
    }
    assert_eq!(lab.count("accepted"), 2);
    assert_eq!(lab.counters_like("dropped_"), []);
    assert_eq!(lab.count("passed_older_connection"), 0);
}

#[test]
fn what_a_listener_accepted_before_the_enrolment_stays_older() {
    let Some(lab) = Lab::new("what_a_listener_accepted_before_the_enrolment_stays_older") else { return };
    let outside = Outside::new();
    let mut application = lab.inside();
    let at = application.run(&format!("keep listener {}:0", INSIDE[0]));
    let at: SocketAddr = at.strip_prefix("ok ").unwrap().parse().unwrap();
    let mut first = outside.run(move || TcpStream::connect(at)).unwrap();
    lab.enrol();
    let second = outside.run(move || TcpStream::connect(at)).unwrap();
    // The first is accepted first. Its connection was made when its listener was not marked.
    assert_eq!(application.run("serve 1"), "ok done");
    first.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(first.read(&mut [0; 2]).unwrap(), 1);
    assert!(lab.count("passed_older_connection") > 0);
    let answers = lab.count("passed_answer");
    assert_eq!(application.run("serve 1"), "ok done");
    second.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!((&second).read(&mut [0; 2]).unwrap(), 1);
    assert!(lab.count("passed_answer") > answers);
    assert_eq!(lab.counters_like("dropped_"), []);
}

#[test]
fn a_caller_from_outside_opens_no_way_to_one_that_the_workload_made_up() {
    let Some(lab) = Lab::new("a_caller_from_outside_opens_no_way_to_one_that_the_workload_made_up") else {
        return;
    };
    let outside = Outside::new();
    lab.enrol();
    let (mut server, mut forger) = (lab.inside(), lab.inside());
    let at = server.run("keep listener [::]:0");
    let port = at.rsplit(':').next().unwrap();
    let client = read_all(&outside, &format!("{}:{port}", INSIDE[1]));
    assert_eq!(server.run("serve 1"), "ok done");
    assert_eq!(client.join().unwrap(), 1);
    assert_eq!(lab.count("accepted"), 1, "the listener is marked");
    let source = format!("{}:4000", OUTSIDE[1]);
    let begun = format!("ok {}", errno(Errno::EINPROGRESS));
    assert_eq!(forger.run(&format!("start-forged {source} [::1]:{port}")), begun);
    lab.wait_for_count("dropped_tcp_open", 1);
    assert_eq!(lab.count("accepted"), 1, "what comes by loopback is no call");
}
