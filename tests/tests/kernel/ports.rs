//! Several listener ports per family: connections spread over them, each with its own destination, and source ports neither
//! run out nor belong to one destination.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use egret::datapath::WorkloadPolicy;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::lab::{Lab, WORKLOAD, assert_idle, errno, listen, port};

const PORTS: u8 = 8;

/// A block of listeners of one family. The namespace is the test's own, so the ports are free.
struct Block(Vec<TcpListener>);

impl Block {
    fn new(ip: &str, first: u16, ports: u8) -> Self {
        let last = first + u16::from(ports);
        let block = Self((first..last).map(|port| listen(&format!("{ip}:{port}"))).collect());
        for listener in &block.0 {
            listener.set_nonblocking(true).expect("non-blocking");
        }
        block
    }

    fn first(&self) -> u16 {
        port(&self.0[0])
    }

    /// Accepts what comes next, if it comes within `patience`.
    fn accept(&self, lab: &Lab, patience: PollTimeout) -> Option<Accepted> {
        let mut ready: Vec<_> =
            self.0.iter().map(|listener| PollFd::new(listener.as_fd(), PollFlags::POLLIN)).collect();
        while poll(&mut ready, patience) == Err(Errno::EINTR) {}
        let at = ready.iter().position(|ready| ready.any() == Some(true))?;
        let (stream, peer) = self.0[at].accept().expect("it is there");
        let listener = port(&self.0[at]);
        let original =
            lab.capture.take_original_destination(WORKLOAD, peer, listener).map(|taken| taken.destination);
        Some(Accepted { stream, listener, peer, original })
    }
}

struct Accepted {
    stream: TcpStream,
    /// The port it came to.
    listener: u16,
    peer: SocketAddr,
    /// Where it wanted to go.
    original: Option<SocketAddr>,
}

impl Accepted {
    #[track_caller]
    fn assert_went_to(&self, address: &str) {
        assert_eq!(self.original, Some(address.parse().expect("an address")), "from {}", self.peer);
    }
}

fn soon() -> PollTimeout {
    PollTimeout::from(10_000_u16)
}

#[test]
fn connections_spread_over_the_ports() {
    let Some(lab) = Lab::new("connections_spread_over_the_ports") else { return };
    let (v4, v6) = (Block::new("127.0.0.1", 61_000, PORTS), Block::new("[::1]", 62_000, PORTS));
    let policy = WorkloadPolicy {
        listener_v4: v4.first(),
        listener_v6: v6.first(),
        listener_ports: PORTS,
        ..lab.policy()
    };
    lab.capture.attach(lab.cgroup.path(), &policy).unwrap();
    let mut application = lab.inside();
    for (block, address, original) in [
        (&v4, "203.0.113.7:80", "203.0.113.7:80"),
        (&v4, "[::ffff:203.0.113.7]:80", "203.0.113.7:80"),
        (&v6, "[2001:db8:7::7]:80", "[2001:db8:7::7]:80"),
    ] {
        let mut counts = BTreeMap::new();
        for _ in 0..250 {
            assert_eq!(application.connect(address), format!("ok {address}"));
            let accepted = block.accept(&lab, soon()).expect("at one of the ports");
            accepted.assert_went_to(original);
            *counts.entry(accepted.listener).or_insert(0) += 1;
        }
        // That one of them is missed by chance: once in 10^13 runs.
        assert_eq!(counts.len(), usize::from(PORTS), "{counts:?}");
    }
    assert_eq!(lab.count("captured"), 750);
    assert_idle(&lab.listener_v4);
}

#[test]
fn one_source_port_serves_destinations_on_different_ports() {
    let Some(lab) = Lab::new("one_source_port_serves_destinations_on_different_ports") else { return };
    let destinations: Vec<String> = (1..=64).map(|number| format!("203.0.113.{number}:80")).collect();

    // With one listener port there is one connection per source port: what several are for.
    lab.enrol();
    let mut application = lab.inside();
    assert_eq!(
        application.run(&format!("keep shared 4000 {}", destinations[0])),
        format!("ok {}", destinations[0])
    );
    assert_eq!(
        application.run(&format!("keep shared 4000 {}", destinations[1])),
        errno(Errno::EADDRNOTAVAIL)
    );
    drop(application);

    let block = Block::new("127.0.0.1", 61_000, PORTS);
    let policy = WorkloadPolicy { listener_v4: block.first(), listener_ports: PORTS, ..lab.policy() };
    lab.capture.set_policy(lab.cgroup.path(), &policy).unwrap();
    let mut application = lab.inside();
    let mut open = BTreeMap::new();
    for destination in &destinations {
        let answer = application.run(&format!("keep shared 4001 {destination}"));
        if answer == errno(Errno::EADDRNOTAVAIL) {
            continue;
        }
        assert_eq!(answer, format!("ok {destination}"));
        let accepted = block.accept(&lab, soon()).expect("at one of the ports");
        accepted.assert_went_to(destination);
        assert_eq!(accepted.peer.port(), 4001);
        assert_eq!(open.insert(accepted.listener, destination), None, "two connections with the same ends");
    }
    // The spread is fixed, so this is no matter of chance; every port is somebody's.
    assert_eq!(open.len(), usize::from(PORTS), "{open:?}");

    // A destination goes to the same port whatever the source port: twice with one is refused, as without us.
    let (_, used) = open.first_key_value().unwrap();
    assert_eq!(application.run(&format!("keep shared 4001 {used}")), errno(Errno::EADDRNOTAVAIL));
    assert_eq!(application.run(&format!("keep shared 4002 {used}")), format!("ok {used}"));
}

/// Connects as often as it goes while everything is accepted and closed; how many worked, and the first errno.
fn storm(lab: &Lab, block: &Block, count: u32) -> String {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let accepting = scope.spawn(|| {
            let mut accepted = 0_u32;
            loop {
                let stopping = stop.load(Ordering::Acquire);
                match block.accept(lab, PollTimeout::from(50_u16)) {
                    Some(mut one) => {
                        one.assert_went_to("203.0.113.7:80");
                        // Closed after its client: who closes first has the TIME_WAIT.
                        one.stream.read_to_end(&mut Vec::new()).expect("closed");
                        accepted += 1;
                    }
                    None if stopping => return accepted,
                    None => {}
                }
            }
        });
        let answer = lab.inside().run(&format!("storm {count} 203.0.113.7:80"));
        stop.store(true, Ordering::Release);
        let accepted = accepting.join().expect("every one with its destination");
        assert_eq!(answer.split(' ').nth(1), Some(accepted.to_string().as_str()), "{answer}");
        answer
    })
}

#[test]
fn source_ports_do_not_run_out() {
    const EPHEMERAL: u32 = 500;
    let Some(lab) = Lab::new("source_ports_do_not_run_out") else { return };
    // A minute of TIME_WAIT that nobody shortens, and few source ports instead of many connections.
    fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "0").unwrap();
    // Not by a reset either: the last acknowledgement of a close can come twice, and the second finds nobody.
    fs::write("/proc/sys/net/ipv4/tcp_rfc1337", "1").unwrap();
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40499").unwrap();
    let block = Block::new("127.0.0.1", 61_000, PORTS);
    let policy = WorkloadPolicy { listener_v4: block.first(), listener_ports: PORTS, ..lab.policy() };
    lab.capture.attach(lab.cgroup.path(), &policy).unwrap();
    // 350 on each port of 500; that chance gives one of them all 500: never.
    assert_eq!(storm(&lab, &block, 2800), "ok 2800 errno 0");

    // The control, with another listener: without the spread it ends where the source ports do.
    let block = Block::new("127.0.0.1", 62_000, 1);
    let policy = WorkloadPolicy { listener_v4: block.first(), listener_ports: 1, ..lab.policy() };
    lab.capture.set_policy(lab.cgroup.path(), &policy).unwrap();
    let outcome = storm(&lab, &block, EPHEMERAL + 50);
    let made = outcome.strip_prefix("ok ").and_then(|rest| {
        rest.strip_suffix(&format!(" errno {}", Errno::EADDRNOTAVAIL as i32))?.parse::<u32>().ok()
    });
    // One or two may belong to others in this namespace.
    assert!(made.is_some_and(|made| (EPHEMERAL - 5..=EPHEMERAL).contains(&made)), "{outcome}");
}

#[test]
fn a_successor_with_other_ports_gets_everything() {
    let Some(lab) = Lab::new("a_successor_with_other_ports_gets_everything") else { return };
    let old = Block::new("127.0.0.1", 61_000, 2);
    let policy = WorkloadPolicy { listener_v4: old.first(), listener_ports: 2, ..lab.policy() };
    lab.capture.attach(lab.cgroup.path(), &policy).unwrap();
    let mut application = lab.inside();
    assert_eq!(application.connect("203.0.113.7:80"), "ok 203.0.113.7:80");
    old.accept(&lab, soon()).unwrap().assert_went_to("203.0.113.7:80");

    let new = Block::new("127.0.0.1", 63_000, PORTS);
    let policy = WorkloadPolicy { listener_v4: new.first(), listener_ports: PORTS, ..lab.policy() };
    egret::datapath::Capture::load(&lab.pins).unwrap().attach(lab.cgroup.path(), &policy).unwrap();
    for _ in 0..50 {
        assert_eq!(application.connect("203.0.113.8:80"), "ok 203.0.113.8:80");
        new.accept(&lab, soon()).unwrap().assert_went_to("203.0.113.8:80");
    }
    assert!(old.accept(&lab, PollTimeout::ZERO).is_none(), "nothing comes to the old ports any more");
}
