//! The lock at the host's side of a workload's link: whatever privileges the workload has, and whoever made the socket.
//!
//! Nobody in these tests is in an enrolled cgroup: a process that left its cgroup, a socket that somebody else handed in and a
//! device of the workload's own look the same here.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use egret::datapath::{Capture, Connection, Device};
use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
};

use crate::{
    frames::{IPV4, Packet, TCP, UDP, datagram, frame, hardware, hexadecimal, tcp, udp},
    lab::{Application, Lab, OUTSIDE_V4, OUTSIDE_V6, WORKLOAD, assert_idle, errno, ip, listen},
    outside::{INSIDE, OUTSIDE, Outside, receive},
};

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// This thread's network namespace is the host's, with addresses that the workload must not reach; the workload is behind
/// the link.
struct Node {
    lab: Lab,
    workload: Outside,
    device: Device,
}

impl Node {
    fn new(test: &str) -> Option<Self> {
        let lab = Lab::new(test)?;
        let workload = Outside::new();
        let [v4, v6] = INSIDE;
        workload.run(move || {
            ip(&format!("route add default via {v4}"));
            ip(&format!("-6 route add default via {}", v6.trim_matches(['[', ']'])));
        });
        let device = Device { index: if_nametoindex("inner").expect("the link"), name: "inner".to_owned() };
        Some(Self { lab, workload, device })
    }

    /// Locks the link, as the workload's that has the two addresses.
    fn lock(&self) {
        assert_eq!(self.lock_by(&self.lab.capture), 0);
        for address in OUTSIDE {
            let address = format!("{address}:0").parse::<SocketAddr>().expect("an address").ip();
            self.lab.capture.add_source(self.device.index, address).expect("its address");
        }
    }

    fn lock_by(&self, capture: &Capture) -> usize {
        capture.lock(&self.device, WORKLOAD, || Ok(Vec::new())).expect("locked")
    }

    /// A process there.
    fn application(&self) -> Application {
        self.workload.run(|| Application::start(None))
    }

    /// A frame from the workload to the host.
    fn frame(&self, kind: u16, payload: &[u8]) -> String {
        let from = self.workload.run(|| hardware("outer"));
        frame(hardware("inner"), from, kind, payload)
    }

    /// What the lock has dropped, whatever the reason.
    fn dropped(&self) -> u64 {
        self.lab.counters_like("link_dropped_").iter().map(|(_, count)| count).sum()
    }
}

fn v4(address: &str, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(address.parse().expect("an address"), port)
}

/// A UDP server of the host that gives up after a while.
fn server(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).expect("socket");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
    socket
}

/// Sends a datagram with this text to the server, from the host itself, and expects it to be the first that arrives.
fn assert_nothing_came(server: &UdpSocket) {
    let at = server.local_addr().expect("address");
    let own = UdpSocket::bind(SocketAddr::new(at.ip(), 0)).expect("socket");
    own.send_to(b"nothing before", at).expect("sent");
    assert_eq!(receive(server).0, "nothing before");
}

#[test]
fn nothing_that_nobody_asked_for_comes_out() {
    let Some(node) = Node::new("nothing_that_nobody_asked_for_comes_out") else { return };
    let server = server(&format!("{OUTSIDE_V4}:0"));
    let server_v6 = self::server(&format!("[{OUTSIDE_V6}]:0"));
    let SocketAddr::V4(at) = server.local_addr().unwrap() else { panic!("IPv4") };
    let at_v6 = server_v6.local_addr().unwrap();
    let packet = |text: &str| datagram(v4(OUTSIDE[0], 4000), at, text);

    // A device of the workload's own: what is written to it is forwarded.
    let mut owner = node.application();
    assert_eq!(owner.run("keep tun tun0"), "ok made");
    node.workload.run(|| {
        ip("address add 192.0.2.129/25 dev tun0");
        ip("link set tun0 up");
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        ip("link add vx0 type vxlan id 7 dstport 4789 dev outer remote 192.0.2.1");
        ip("address add 203.0.113.129/25 dev vx0");
        ip("link set vx0 up");
    });
    ip("route add 192.0.2.128/25 via 198.51.100.2");
    let from_tun = |text: &str| hexadecimal(&datagram(v4("192.0.2.130", 4000), at, text));
    let overlay = self::server(&format!("{OUTSIDE_V4}:4789"));

    let mut application = node.application();
    let try_everything = |application: &mut Application, owner: &mut Application| {
        let frames = [("frame", "packet socket"), ("frame-bypass", "past the queue")];
        for (command, text) in frames {
            let frame = node.frame(IPV4, &packet(text));
            assert_eq!(application.run(&format!("{command} outer {frame}")), "ok done");
        }
        assert_eq!(owner.run(&format!("write {}", from_tun("tun"))), "ok done");
        assert_eq!(application.run(&format!("send udp {at}")), "ok done");
        assert_eq!(application.run(&format!("send udp6 {at_v6}")), "ok done");
        // The neighbour over there is known, so that the packet goes into the tunnel at once.
        node.workload.run(|| ip("neighbour replace 203.0.113.130 lladdr 02:00:00:00:00:01 dev vx0"));
        assert_eq!(application.run("send vxlan 203.0.113.130:9"), "ok done");
    };

    // The control: without the lock all of it gets out.
    try_everything(&mut application, &mut owner);
    let mut arrived: Vec<String> = (0..4).map(|_| receive(&server).0).collect();
    arrived.sort();
    assert_eq!(arrived, ["packet socket", "past the queue", "tun", "udp"]);
    assert_eq!(receive(&server_v6).0, "udp6");
    let of_overlay = |text: String| text.contains("vxlan");
    while !of_overlay(receive(&overlay).0) {}
    let listener = listen(&format!("{OUTSIDE_V4}:0"));
    let tcp_at = listener.local_addr().unwrap();
    assert_eq!(application.connect(&tcp_at.to_string()), format!("ok {tcp_at}"));
    listener.accept().unwrap();

    node.lock();
    let before = node.lab.count("link_dropped_destination");
    try_everything(&mut application, &mut owner);
    node.lab.wait_for_count("link_dropped_destination", before + 6);
    assert_eq!(application.run(&format!("start {tcp_at}")), format!("ok {}", errno(Errno::EINPROGRESS)));
    node.lab.wait_for_count("link_dropped_destination", before + 7);
    assert_eq!(application.run("keep socket 2 3 6"), "ok made");
    assert_eq!(application.run(&format!("syn {tcp_at}")), "ok done");
    node.lab.wait_for_count("link_dropped_destination", before + 8);
    assert_nothing_came(&server);
    assert_nothing_came(&server_v6);
    assert_idle(&listener);

    // Without the lock nothing is dropped.
    node.lab.capture.unlock(node.device.index).unwrap();
    assert_eq!(fs::read_dir(node.lab.pins.join("links")).unwrap().count(), 0, "no pin is left");
    let dropped = node.dropped();
    try_everything(&mut application, &mut owner);
    let mut arrived: Vec<String> = (0..4).map(|_| receive(&server).0).collect();
    arrived.sort();
    assert_eq!(arrived, ["packet socket", "past the queue", "tun", "udp"]);
    assert_eq!(node.dropped(), dropped);
}

#[test]
fn where_the_workload_may_go_it_goes() {
    let Some(node) = Node::new("where_the_workload_may_go_it_goes") else { return };
    node.lock();
    let capture = &node.lab.capture;
    let mut application = node.application();
    for (address, range) in
        [(OUTSIDE_V4.to_owned(), "192.0.2.1/32"), (format!("[{OUTSIDE_V6}]"), "2001:db8::1/128")]
    {
        // The gateway: this port, TCP.
        let gateway = listen(&format!("{address}:0"));
        let at = gateway.local_addr().unwrap();
        capture.set_gateways(&[at]).unwrap();
        assert_eq!(application.connect(&at.to_string()), format!("ok {at}"));
        gateway.accept().expect("the tunnel");
        let dropped = node.dropped();
        let udp = server(&at.to_string());
        assert_eq!(application.run(&format!("send no {at}")), "ok done");
        node.lab.wait_for_count("link_dropped_destination", dropped + 1);
        assert_nothing_came(&udp);
        capture.set_gateways(&[]).unwrap();

        // A resolver: this port, TCP and UDP.
        capture.set_resolvers(&[at]).unwrap();
        assert_eq!(application.connect(&at.to_string()), format!("ok {at}"));
        gateway.accept().expect("names over TCP");
        assert_eq!(application.run(&format!("send question {at}")), "ok done");
        assert_eq!(receive(&udp).0, "question");
        capture.set_resolvers(&[]).unwrap();

        // A bypassed range, also in fragments.
        capture.set_bypass(&[range.parse().unwrap()]).unwrap();
        let other = server(&format!("{address}:0"));
        assert_eq!(application.run(&format!("send direct {}", other.local_addr().unwrap())), "ok done");
        assert_eq!(receive(&other).0, "direct");
        let long = "x".repeat(4000);
        assert_eq!(application.run(&format!("send {long} {}", other.local_addr().unwrap())), "ok done");
        let mut bytes = [0; 4096];
        assert_eq!(other.recv(&mut bytes).unwrap(), 4000, "cut and put together");
        capture.set_bypass(&[]).unwrap();
    }
    // The neighbours are asked anew, on both sides.
    assert!(node.lab.count("link_passed_neighbour") > 0);
    assert_eq!(node.lab.count("link_dropped_destination"), 2);
    assert_eq!(node.dropped(), 2);
}

#[test]
fn servers_behind_the_lock_answer() {
    const BYTES: usize = 3 << 20;
    let Some(node) = Node::new("servers_behind_the_lock_answer") else { return };
    fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
    node.lock();
    let mut application = node.application();
    for address in OUTSIDE {
        // Both have to find each other's link address anew.
        ip("neighbour flush dev inner");
        node.workload.run(|| ip("neighbour flush dev outer"));

        let at = address_of(&application.run(&format!("keep listener {address}:0")));
        let client = thread::spawn({
            let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(10)).expect("connected");
            move || {
                stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                let mut bytes = Vec::new();
                stream.read_to_end(&mut bytes).expect("read");
                bytes.len()
            }
        });
        assert_eq!(application.run(&format!("serve {BYTES}")), "ok done");
        assert_eq!(client.join().unwrap(), BYTES);

        let at = address_of(&application.run(&format!("keep server {address}:0")));
        let client = server(if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" });
        client.send_to(b"ping", at).unwrap();
        assert_eq!(application.run("answer pong"), "ok done");
        assert_eq!(receive(&client), ("pong".to_owned(), at));

        // Nobody listens: a reset, and "port unreachable".
        let nobody = SocketAddr::new(at.ip(), 9);
        let refused = TcpStream::connect_timeout(&nobody, Duration::from_secs(10)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{refused}");
        let client = server(if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" });
        client.connect(nobody).unwrap();
        client.send(b"x").unwrap();
        let refused = client.recv(&mut [0]).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{refused}");

        let (family, protocol, request) = match at {
            SocketAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8),
            SocketAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128),
        };
        let ping = socket(family, SockType::Datagram, SockFlag::empty(), protocol).unwrap();
        let ping = UdpSocket::from(ping);
        ping.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        ping.send_to(&[request, 0, 0, 0, 0, 0, 0, 1, b'!'], SocketAddr::new(at.ip(), 0)).unwrap();
        let mut reply = [0; 64];
        let length = ping.recv(&mut reply).expect("an echo");
        assert_eq!((length, reply[8]), (9, b'!'));
    }
    assert_eq!(node.lab.counters_like("link_dropped_"), []);
    assert_eq!(node.lab.count("link_passed_older_connection"), 0);
}

#[test]
fn what_a_workload_makes_up_is_no_answer() {
    let Some(node) = Node::new("what_a_workload_makes_up_is_no_answer") else { return };
    let server = server(&format!("{OUTSIDE_V4}:0"));
    let SocketAddr::V4(at) = server.local_addr().unwrap() else { panic!("IPv4") };
    let own: Ipv4Addr = OUTSIDE[0].parse().unwrap();
    node.lock();
    let mut application = node.application();
    let whole = udp(4000, at.port(), "forged");
    let packet = Packet {
        source: own,
        destination: *at.ip(),
        protocol: UDP,
        fragment: 0,
        options: &[],
        payload: &whole,
    };
    let mut send = |kind: u16, payload: &[u8], reason: &str| {
        let before = node.lab.count(reason);
        let frame = node.frame(kind, payload);
        assert_eq!(application.run(&format!("frame outer {frame}")), "ok done");
        node.lab.wait_for_count(reason, before + 1);
    };

    // Answers to nobody: an ACK, a reset, a SYN-ACK.
    for flags in [ACK, 0x04, SYN | ACK] {
        let segment = tcp(4000, at.port(), flags);
        send(
            IPV4,
            &Packet { protocol: TCP, payload: &segment, ..packet }.bytes(),
            "link_dropped_destination",
        );
    }
    // Somebody has spoken to port 4000: other ports, and another's address, are not answers.
    let client = self::server(&format!("{OUTSIDE_V4}:0"));
    let SocketAddr::V4(peer) = client.local_addr().unwrap() else { panic!("IPv4") };
    client.send_to(b"hello", v4(OUTSIDE[0], 4000)).unwrap();
    let from = |source: Ipv4Addr, port: u16| datagram(SocketAddrV4::new(source, port), peer, "forged");
    send(IPV4, &from(own, 4001), "link_dropped_destination");
    send(IPV4, &from("203.0.113.7".parse().unwrap(), 4000), "link_dropped_destination");

    // Where it may go, with another's address: the answer would go to that.
    node.lab.capture.set_bypass(&["192.0.2.0/24".parse().unwrap()]).unwrap();
    send(IPV4, &Packet { source: "203.0.113.7".parse().unwrap(), ..packet }.bytes(), "link_dropped_source");
    // Source routing, and packets in packets.
    send(IPV4, &Packet { options: &[131, 7, 4, 203, 0, 113, 7, 0], ..packet }.bytes(), "link_dropped_header");
    let inner = packet.bytes();
    send(IPV4, &Packet { protocol: 4, payload: &inner, ..packet }.bytes(), "link_dropped_other");
    // A tag of a VLAN before it; another EtherType; ARP with something behind it; a packet that is cut off.
    let mut tagged = vec![0, 5];
    tagged.extend(IPV4.to_be_bytes());
    tagged.extend(packet.bytes());
    send(0x8100, &tagged, "link_dropped_other");
    send(0x88b5, b"an experiment", "link_dropped_other");
    let mut long = vec![0, 1, 8, 0, 6, 4, 0, 1];
    long.resize(100, b'x');
    send(0x0806, &long, "link_dropped_other");
    send(IPV4, &packet.bytes()[..22], "link_dropped_other");
    node.lab.capture.set_bypass(&[]).unwrap();
    // A fragment has no ports to go by.
    send(IPV4, &Packet { fragment: 0x2000, ..packet }.bytes(), "link_dropped_header");
    assert_nothing_came(&server);
    assert_nothing_came(&client);

    // The control: the answer itself passes, and so does what is sent to a bypassed range.
    let frame = node.frame(IPV4, &from(own, 4000));
    assert_eq!(application.run(&format!("frame outer {frame}")), "ok done");
    assert_eq!(receive(&client).0, "forged");
    node.lab.capture.set_bypass(&["192.0.2.0/24".parse().unwrap()]).unwrap();
    let frame = node.frame(IPV4, &packet.bytes());
    assert_eq!(application.run(&format!("frame outer {frame}")), "ok done");
    assert_eq!(receive(&server).0, "forged");
}

#[test]
fn neighbour_discovery_does_not_leave_the_link() {
    let Some(node) = Node::new("neighbour_discovery_does_not_leave_the_link") else { return };
    node.lock();
    let mut application = node.application();
    // A solicitation (RFC 4861 §4.3) with hop limit 255, to a host that is no neighbour: a router would pass it on.
    let mut packet = vec![0x60, 0, 0, 0, 0, 24, 58, 255];
    for address in ["2001:db8:51::2", "2001:db8:7::7"] {
        packet.extend(address.parse::<std::net::Ipv6Addr>().unwrap().octets());
    }
    packet.extend([135, 0, 0, 0, 0, 0, 0, 0]);
    packet.extend([b'x'; 16]);
    let frame = node.frame(0x86dd, &packet);
    assert_eq!(application.run(&format!("frame outer {frame}")), "ok done");
    node.lab.wait_for_count("link_dropped_destination", 1);
}

/// Where a socket of the application is, by what it answered.
fn address_of(answer: &str) -> SocketAddr {
    answer.strip_prefix("ok ").expect("a socket").parse().expect("an address")
}

/// A connection from the host to a server of the workload.
fn accepted(application: &mut Application) -> TcpStream {
    let at = address_of(&application.run(&format!("keep listener {}:0", OUTSIDE[0])));
    let client = TcpStream::connect_timeout(&at, Duration::from_secs(10)).expect("connected");
    client.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
    client
}

#[test]
fn a_restarted_agent_keeps_the_lock_and_repairs_it() {
    let Some(mut node) = Node::new("a_restarted_agent_keeps_the_lock_and_repairs_it") else { return };
    node.lock();
    let mut application = node.application();
    let mut client = accepted(&mut application);
    let server = server(&format!("{OUTSIDE_V4}:0"));
    let at = server.local_addr().unwrap();
    let links = node.lab.pins.join("links");
    let is_locked = |application: &mut Application, capture: &Capture| {
        let count = || {
            let counters = capture.counters().unwrap();
            counters.iter().find(|(name, _)| *name == "link_dropped_destination").unwrap().1
        };
        let before = count();
        assert_eq!(application.run(&format!("send escaped {at}")), "ok done");
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while count() == before {
            assert!(std::time::Instant::now() < deadline, "not dropped");
            thread::yield_now();
        }
        assert_nothing_came(&server);
    };

    // The agent's process is gone; what is pinned stays.
    let successor = Capture::load(&node.lab.pins).unwrap();
    drop(std::mem::replace(&mut node.lab.capture, successor));
    is_locked(&mut application, &node.lab.capture);
    assert_eq!(node.lock_by(&node.lab.capture), 0, "nothing was missing");
    assert_eq!(node.lab.capture.locked(WORKLOAD).unwrap(), [node.device.index]);
    assert_eq!(node.lab.capture.sources(node.device.index).unwrap().len(), 2, "they are remembered");
    assert_eq!(fs::read_dir(&links).unwrap().count(), 2);
    // A connection that came in before is answered.
    let serving = thread::spawn(move || application.run("serve 1000") == "ok done");
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    assert!(serving.join().unwrap());
    assert_eq!(bytes.len(), 1000);

    // Somebody takes the programs away.
    let mut application = node.application();
    for entry in fs::read_dir(&links).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(node.lock_by(&node.lab.capture), 2);
    assert_eq!(node.lock_by(&node.lab.capture), 0);
    is_locked(&mut application, &node.lab.capture);

    // Somebody puts programs before ours: those of another instance.
    let other = Capture::load(&node.lab.pins.with_file_name("other")).unwrap();
    assert_eq!(node.lock_by(&other), 0);
    assert_eq!(node.lock_by(&node.lab.capture), 2);
    assert_eq!(node.lock_by(&node.lab.capture), 0);
    is_locked(&mut application, &node.lab.capture);
    egret::datapath::cleanup(&node.lab.pins.with_file_name("other")).unwrap();

    // The maps' pins are lost: the programs are moved to new maps.
    fs::remove_dir_all(node.lab.pins.join("maps")).unwrap();
    let successor = Capture::load(&node.lab.pins).unwrap();
    node.lock_by(&successor);
    is_locked(&mut application, &successor);
}

#[test]
fn a_flood_pushes_no_established_connection_out() {
    let Some(node) = Node::new("a_flood_pushes_no_established_connection_out") else { return };
    node.lock();
    let (mut serving, mut answering) = (node.application(), node.application());
    let mut client = accepted(&mut serving);
    let at = address_of(&answering.run(&format!("keep server {}:0", OUTSIDE[0])));
    let peer = server("0.0.0.0:0");
    peer.send_to(b"ping", at).unwrap();
    // More than the table of what has been heard can hold.
    for _ in 0..3 {
        let stranger = UdpSocket::bind("0.0.0.0:0").unwrap();
        for port in (1..=u16::MAX).filter(|port| *port != at.port()) {
            stranger.send_to(b"x", (at.ip(), port)).unwrap();
        }
    }
    let serve = thread::spawn(move || serving.run("serve 1000") == "ok done");
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    assert!(serve.join().unwrap());
    assert_eq!(bytes.len(), 1000);

    // A quiet UDP peer is forgotten, and has to speak again.
    let before = node.lab.count("link_dropped_destination");
    assert_eq!(answering.run("answer pong"), "ok done");
    node.lab.wait_for_count("link_dropped_destination", before + 1);
    peer.send_to(b"ping", at).unwrap();
    assert_eq!(answering.run("answer again"), "ok done");
    assert_eq!(receive(&peer).0, "again");
}

#[test]
fn connections_older_than_the_lock_go_on() {
    let Some(node) = Node::new("connections_older_than_the_lock_go_on") else { return };
    let (mut serving, mut calling) = (node.application(), node.application());
    let mut client = accepted(&mut serving);
    let listener: TcpListener = listen(&format!("{OUTSIDE_V4}:0"));
    let at = listener.local_addr().unwrap();
    assert_eq!(calling.run(&format!("keep connect {at}")), format!("ok {at}"));
    let (mut stream, caller) = listener.accept().unwrap();
    let inbound =
        Connection { local: client.peer_addr().unwrap(), peer: client.local_addr().unwrap(), accepted: true };
    let outbound = Connection { local: caller, peer: at, accepted: false };
    let missing = node.lab.capture.lock(&node.device, WORKLOAD, || Ok(vec![inbound, outbound])).unwrap();
    assert_eq!(missing, 0);

    let serve = thread::spawn(move || serving.run("serve 1000") == "ok done");
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    assert!(serve.join().unwrap());
    assert_eq!(bytes.len(), 1000);
    assert_eq!(node.lab.count("link_passed_older_connection"), 0);

    let echo = thread::spawn(move || {
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    assert_eq!(calling.run("talk hello"), "ok hello");
    echo.join().unwrap();
    assert!(node.lab.count("link_passed_older_connection") > 0);
    assert_eq!(node.lab.counters_like("link_dropped_"), []);
}

#[test]
fn the_lock_of_a_device_that_is_gone_can_be_taken_away() {
    let Some(node) = Node::new("the_lock_of_a_device_that_is_gone_can_be_taken_away") else { return };
    node.lock();
    ip("link delete inner");
    let error = node.lab.capture.lock(&node.device, WORKLOAD, || Ok(Vec::new())).unwrap_err().to_string();
    assert!(error.contains("egret_link") && error.contains("inner"), "{error}");
    node.lab.capture.unlock(node.device.index).unwrap();
    assert!(node.lab.capture.locked(WORKLOAD).unwrap().is_empty());
    assert!(node.lab.capture.sources(node.device.index).unwrap().is_empty());
    assert_eq!(fs::read_dir(node.lab.pins.join("links")).unwrap().count(), 0, "no pin is left");
    node.lab.capture.unlock(node.device.index).expect("twice is fine");
}
