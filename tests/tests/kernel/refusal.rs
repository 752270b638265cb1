//! What is refused, with which errno, and that it is the kernel's own where the kernel would refuse too.

use nix::errno::Errno;

use crate::lab::{Application, Lab, assert_idle, errno, ip, listen};

#[test]
fn without_a_policy_everything_is_refused() {
    let Some(lab) = Lab::new("without_a_policy_everything_is_refused") else { return };
    let nothing = egret::datapath::WorkloadPolicy { workload: 0, ..lab.policy() };
    lab.capture.attach(lab.cgroup.path(), &nothing).unwrap();
    let local = listen("127.0.0.1:0").local_addr().unwrap().to_string();
    let mut application = lab.inside();
    for address in ["203.0.113.7:80", "[2001:db8:7::7]:80", "[::ffff:203.0.113.7]:80", &local] {
        assert_eq!(application.connect(address), errno(Errno::ECONNREFUSED), "{address}");
    }
    assert_eq!(lab.count("refused_unclassified"), 4);

    // The policy alone makes the difference.
    lab.capture.set_policy(lab.cgroup.path(), &lab.policy()).unwrap();
    assert_eq!(application.connect("203.0.113.7:80"), "ok 203.0.113.7:80");
}

#[test]
fn without_a_listener_the_family_is_refused() {
    let Some(lab) = Lab::new("without_a_listener_the_family_is_refused") else { return };
    let policy = egret::datapath::WorkloadPolicy { listener_v6: 0, ..lab.policy() };
    lab.capture.attach(lab.cgroup.path(), &policy).unwrap();
    let mut application = lab.inside();
    assert_eq!(application.connect("[2001:db8:7::7]:80"), errno(Errno::ECONNREFUSED));
    assert_eq!(application.connect("[::ffff:203.0.113.7]:80"), "ok [::ffff:203.0.113.7]:80");
    assert_eq!(lab.count("refused_no_listener"), 1);
}

#[test]
fn no_route_and_multicast_fail_as_without_us() {
    let Some(lab) = Lab::new("no_route_and_multicast_fail_as_without_us") else { return };
    let (mut inside, mut outside) = (lab.inside(), Application::start(None));
    lab.enrol();

    // No route at all: the outside process says what the kernel says.
    let policy = egret::datapath::WorkloadPolicy { no_route_v4: true, no_route_v6: true, ..lab.policy() };
    lab.capture.set_policy(lab.cgroup.path(), &policy).unwrap();
    for address in ["203.0.113.7:80", "[::ffff:203.0.113.7]:80", "[2001:db8:7::7]:80"] {
        let expected = outside.connect(address);
        assert_eq!(expected, errno(Errno::ENETUNREACH), "{address}");
        assert_eq!(inside.connect(address), expected, "{address}");
    }
    assert_eq!(lab.count("refused_no_route"), 3);

    // With routes, multicast and broadcast still cannot be dialled.
    lab.capture.set_policy(lab.cgroup.path(), &lab.policy()).unwrap();
    ip("link add outer type veth peer name peer");
    ip("link set outer up");
    ip("address add 198.51.100.1/24 dev outer");
    ip("route add default via 198.51.100.2");
    for address in ["224.0.0.1:80", "255.255.255.255:80", "[::ffff:224.0.0.1]:80", "[ff0e::1]:80"] {
        let expected = outside.connect(address);
        assert_eq!(expected, errno(Errno::ENETUNREACH), "{address}");
        assert_eq!(inside.connect(address), expected, "{address}");
    }
    assert_eq!(lab.count("refused_multicast"), 4);
    assert_idle(&lab.listener_v4);
}

#[test]
fn port_0_is_refused_as_a_host_would() {
    let Some(lab) = Lab::new("port_0_is_refused_as_a_host_would") else { return };
    lab.enrol();
    let expected = Application::start(None).connect(&format!("{}:0", crate::lab::OUTSIDE_V4));
    assert_eq!(expected, errno(Errno::ECONNREFUSED));
    assert_eq!(lab.inside().connect("203.0.113.7:0"), expected);
    assert_eq!(lab.count("refused_port_zero"), 1);
}

#[test]
fn a_socket_bound_to_a_device_is_refused() {
    let Some(lab) = Lab::new("a_socket_bound_to_a_device_is_refused") else { return };
    lab.enrol();
    ip("link add outer type veth peer name peer");
    let mut application = lab.inside();
    assert_eq!(application.run("device outer 203.0.113.7:80"), errno(Errno::EPERM));
    assert_eq!(application.run("device lo 203.0.113.7:80"), "ok 203.0.113.7:80");
    assert_eq!(lab.count("refused_bound_device"), 1);
}

#[test]
fn datagram_sockets_may_connect() {
    let Some(lab) = Lab::new("datagram_sockets_may_connect") else { return };
    lab.enrol();
    // Address sorting in the C library does this to find out which families work.
    assert_eq!(lab.inside().run("datagram 192.0.2.1:53"), "ok 192.0.2.1:53");
    assert_eq!(lab.count("passed_not_tcp"), 1);
}
