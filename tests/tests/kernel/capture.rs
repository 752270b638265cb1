//! What is captured and what is left alone, and that both sides see the right addresses.

use std::{fs, io::Read as _};

use crate::lab::{
    Application, Lab, OUTSIDE_V4, OUTSIDE_V6, assert_idle, errno, listen, port, wait_for_time_wait,
};
use nix::errno::Errno;

#[test]
fn every_kind_of_connect_keeps_its_destination() {
    let Some(lab) = Lab::new("every_kind_of_connect_keeps_its_destination") else { return };
    lab.enrol();
    let mut application = lab.inside();
    for (command, peer, v4, original) in [
        ("connect 203.0.113.7:80", "203.0.113.7:80", true, "203.0.113.7:80"),
        ("connect [2001:db8:7::7]:443", "[2001:db8:7::7]:443", false, "[2001:db8:7::7]:443"),
        ("connect [::ffff:203.0.113.7]:8080", "[::ffff:203.0.113.7]:8080", true, "203.0.113.7:8080"),
        ("nonblocking 203.0.113.8:81", "203.0.113.8:81", true, "203.0.113.8:81"),
        ("nonblocking [2001:db8:7::8]:82", "[2001:db8:7::8]:82", false, "[2001:db8:7::8]:82"),
    ] {
        assert_eq!(application.run(command), format!("ok {peer}"), "{command}");
        let (stream, taken) = lab.take(v4);
        assert_eq!(taken, Some(original.parse().unwrap()), "{command}");
        let (peer, local) = (stream.peer_addr().unwrap(), stream.local_addr().unwrap());
        let again = lab
            .capture
            .take_original_destination(crate::lab::WORKLOAD, peer, local.port())
            .map(|taken| taken.destination);
        assert_eq!(again, None, "an original destination is taken once");
    }
    assert_eq!(lab.count("captured"), 5);
    assert_eq!(lab.count("published"), 5);
    assert_eq!(lab.count("peer_restored"), 5);
}

/// Its way is loopback's. What is left alone has what the machine prefers.
#[test]
fn only_what_is_captured_is_not_paced() {
    let Some(lab) = Lab::new("only_what_is_captured_is_not_paced") else { return };
    let server = listen(&format!("{OUTSIDE_V4}:0"));
    let direct = server.local_addr().unwrap();
    lab.capture.set_bypass(&["192.0.2.0/24".parse().unwrap()]).unwrap();
    lab.enrol();
    let mut application = lab.inside();
    for address in ["203.0.113.7:80", "[2001:db8:7::7]:443"] {
        assert_eq!(application.run(&format!("congestion {address}")), "ok reno", "{address}");
    }
    let preferred = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap();
    assert_eq!(application.run(&format!("congestion {direct}")), format!("ok {}", preferred.trim()));
}

#[test]
fn fast_open_is_no_way_out() {
    let Some(lab) = Lab::new("fast_open_is_no_way_out") else { return };
    lab.enrol();
    let mut application = lab.inside();
    assert_eq!(application.run("fastopen hello 203.0.113.7:80"), "ok 203.0.113.7:80");
    assert_eq!(lab.take(true).1, Some("203.0.113.7:80".parse().unwrap()));
}

#[test]
fn a_multipath_socket_older_than_the_enrolment_is_captured() {
    let Some(lab) = Lab::new("a_multipath_socket_older_than_the_enrolment_is_captured") else { return };
    let mut application = lab.inside();
    // A new one is refused, so that getpeername stays true.
    if application.run("keep socket 2 1 262") != "ok made" {
        eprintln!("left out: Multipath TCP (not in this kernel)");
        return;
    }
    lab.enrol();
    assert_eq!(application.run("socket 2 1 262"), errno(Errno::EPROTONOSUPPORT));
    // The application sees the listener: a known limit.
    let listener = lab.listener_v4.local_addr().unwrap();
    assert_eq!(application.run("dial 203.0.113.9:83"), format!("ok {listener}"));
    assert_eq!(lab.take(true).1, Some("203.0.113.9:83".parse().unwrap()));
}

#[test]
fn many_connections_are_not_confused() {
    let Some(lab) = Lab::new("many_connections_are_not_confused") else { return };
    lab.enrol();
    let mut application = lab.inside();
    for number in 1..=500_u32 {
        let address = format!("203.0.113.{}:{}", number % 250 + 1, number + 1000);
        assert_eq!(application.connect(&address), format!("ok {address}"));
        assert_eq!(lab.take(true).1, Some(address.parse().unwrap()));
    }
}

#[test]
fn data_of_a_client_that_closes_before_accept_is_not_lost() {
    let Some(lab) = Lab::new("data_of_a_client_that_closes_before_accept_is_not_lost") else { return };
    lab.enrol();
    assert_eq!(lab.inside().run("hasty hello 203.0.113.7:80"), "ok closed");
    wait_for_time_wait(&lab.listener_v4);
    let (mut stream, original) = lab.take(true);
    assert_eq!(original, Some("203.0.113.7:80".parse().unwrap()));
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
}

#[test]
fn a_second_connect_on_the_same_socket_counts() {
    let Some(lab) = Lab::new("a_second_connect_on_the_same_socket_counts") else { return };
    lab.enrol();
    let mut application = lab.inside();
    // Port 0 is refused in the hook; then the same socket goes elsewhere.
    assert_eq!(application.run("connect 203.0.113.7:0 203.0.113.8:80"), "ok 203.0.113.8:80");
    assert_eq!(lab.take(true).1, Some("203.0.113.8:80".parse().unwrap()));
}

#[test]
fn a_refused_listener_refuses_the_application_and_leaves_no_entries() {
    let Some(lab) = Lab::new("a_refused_listener_refuses_the_application_and_leaves_no_entries") else {
        return;
    };
    let closed = port(&listen("127.0.0.1:0"));
    let mut policy = lab.policy();
    policy.listener_v4 = closed;
    lab.capture.attach(lab.cgroup.path(), &policy).unwrap();
    let mut application = lab.inside();
    for _ in 0..20 {
        assert_eq!(application.connect("203.0.113.7:80"), errno(Errno::ECONNREFUSED));
    }
    assert_eq!(lab.count("published"), 20);
    assert_eq!(lab.count("withdrawn"), 20);

    // A socket that was captured, refused, and then goes to a bypassed address shows that address.
    let server = listen(&format!("{OUTSIDE_V4}:0"));
    let direct = server.local_addr().unwrap();
    lab.capture.set_bypass(&["192.0.2.0/24".parse().unwrap()]).unwrap();
    assert_eq!(application.run(&format!("connect 203.0.113.7:80 {direct}")), format!("ok {direct}"));
    server.accept().unwrap();
    assert_eq!(lab.count("published"), 21, "the bypassed connection published nothing");
}

#[test]
fn bypassed_ranges_go_direct() {
    let Some(lab) = Lab::new("bypassed_ranges_go_direct") else { return };
    lab.enrol();
    let mut application = lab.inside();
    let server = listen(&format!("{OUTSIDE_V4}:0"));
    let server_v6 = listen(&format!("[{OUTSIDE_V6}]:0"));
    let address = server.local_addr().unwrap().to_string();
    let mapped = format!("[::ffff:{OUTSIDE_V4}]:{}", port(&server));
    let address_v6 = server_v6.local_addr().unwrap().to_string();

    assert_eq!(application.connect(&address), format!("ok {address}"));
    assert_idle(&server);
    assert!(lab.take(true).1.is_some());

    lab.capture.set_bypass(&["192.0.2.0/24".parse().unwrap(), "2001:db8::/48".parse().unwrap()]).unwrap();
    for (destination, server) in [(&address, &server), (&mapped, &server), (&address_v6, &server_v6)] {
        assert_eq!(application.connect(destination), format!("ok {destination}"));
        server.accept().expect("went direct");
    }
    assert_eq!(lab.count("bypassed_range"), 3);
    assert_idle(&lab.listener_v4);
    assert_idle(&lab.listener_v6);

    // An IPv6 range covers no IPv4 destination, however short it is; and ranges that are not named any more are gone.
    lab.capture.set_bypass(&["::/0".parse().unwrap()]).unwrap();
    assert_eq!(application.connect(&address), format!("ok {address}"));
    assert_idle(&server);
    assert!(lab.take(true).1.is_some());
    assert_eq!(application.connect(&address_v6), format!("ok {address_v6}"));
    server_v6.accept().expect("went direct");
}

#[test]
fn loopback_goes_direct() {
    let Some(lab) = Lab::new("loopback_goes_direct") else { return };
    lab.enrol();
    let mut application = lab.inside();
    for address in ["127.0.0.5:0", "[::1]:0"] {
        let server = listen(address);
        let address = server.local_addr().unwrap().to_string();
        assert_eq!(application.connect(&address), format!("ok {address}"));
        server.accept().expect("went direct");
    }
    assert_eq!(lab.count("bypassed_loopback"), 2);
    assert_eq!(lab.count("captured"), 0);
}

#[test]
fn the_listener_dialled_directly_has_no_original_destination() {
    let Some(lab) = Lab::new("the_listener_dialled_directly_has_no_original_destination") else { return };
    lab.enrol();
    let address = lab.listener_v4.local_addr().unwrap().to_string();
    assert_eq!(lab.inside().connect(&address), format!("ok {address}"));
    assert_eq!(lab.take(true).1, None);
}

#[test]
fn a_process_outside_is_not_captured() {
    let Some(lab) = Lab::new("a_process_outside_is_not_captured") else { return };
    lab.enrol();
    let server = listen(&format!("{OUTSIDE_V4}:0"));
    let address = server.local_addr().unwrap().to_string();
    assert_eq!(Application::start(None).connect(&address), format!("ok {address}"));
    server.accept().expect("went direct");
    assert_idle(&lab.listener_v4);
    let counted: u64 = lab.capture.counters().unwrap().iter().map(|(_, count)| count).sum();
    assert_eq!(counted, 0, "no program ran");
}

#[test]
fn with_nested_enrolled_cgroups_the_inner_one_captures() {
    let Some(lab) = Lab::new("with_nested_enrolled_cgroups_the_inner_one_captures") else { return };
    let inner = lab.cgroup.child("inner").unwrap();
    let outer_listener = listen("127.0.0.1:0");
    let outer =
        egret::datapath::WorkloadPolicy { workload: 8, listener_v4: port(&outer_listener), ..lab.policy() };
    lab.capture.attach(lab.cgroup.path(), &outer).unwrap();
    lab.capture.attach(inner.path(), &lab.policy()).unwrap();
    let mut application = Application::start(Some(&inner));
    assert_eq!(application.connect("203.0.113.7:80"), "ok 203.0.113.7:80");
    assert_eq!(lab.take(true).1, Some("203.0.113.7:80".parse().unwrap()));
    assert_idle(&outer_listener);
    assert_eq!((lab.count("captured"), lab.count("already_captured"), lab.count("published")), (1, 1, 1));
    drop(application);
}
