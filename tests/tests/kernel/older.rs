//! Connections that no program saw begin: older than the enrolment, escaped, or of somebody else. With real sockets of real
//! processes, and the kernel's own list of them.

use std::{
    io::Read as _,
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use egret::{
    datapath::WorkloadPolicy,
    node::{
        netns::{self, Namespace},
        sockets::{Direct, Findings, Foreign, Protocol, Rules, State, Subject, examine, foreign, list},
    },
};
use egret_tests::application::{assert_ended, echo};
use nix::errno::Errno;

use crate::{
    lab::{Application, Lab, OUTSIDE_V4, WORKLOAD, errno, ip, listen},
    outside::{INSIDE, OUTSIDE, Outside},
};

impl Lab {
    fn subject(&self) -> Subject {
        Subject { workload: WORKLOAD, cgroup: self.cgroup.path().to_owned(), namespaces: vec![None] }
    }

    fn look(&self, first: bool, end_older: bool) -> Findings {
        let nothing = Direct::default();
        let rules = Rules { direct: &nothing, direct_ever: &nothing, first, end_older };
        examine(&self.capture, &self.subject(), &rules).expect("its sockets are listed")
    }

    fn set_strict(&self) {
        let policy = WorkloadPolicy { drops_older: true, ..self.policy() };
        self.capture.set_policy(self.cgroup.path(), &policy).expect("policy");
    }
}

/// A server outside that waits for one connection.
fn server(outside: &Outside, address: &str) -> (TcpListener, String) {
    let address = format!("{address}:0");
    let server = outside.run(move || listen(&address));
    let at = server.local_addr().expect("address").to_string();
    (server, at)
}

/// A connection of an application to the outside, and its far end.
fn connected(
    outside: &Outside,
    application: &mut Application,
    address: &str,
) -> JoinHandle<std::io::Result<()>> {
    let (server, at) = server(outside, address);
    assert_eq!(application.run(&format!("keep connect {at}")), format!("ok {at}"));
    let echo = echo(server.accept().expect("went direct").0);
    assert_eq!(application.run("talk hello"), "ok hello");
    echo
}

/// A server inside, and a connection to it that has not been accepted yet.
struct Served {
    application: Application,
    client: TcpStream,
}

impl Served {
    fn start(lab: &Lab, outside: &Outside, address: &str) -> Self {
        let mut application = lab.inside();
        let at = application.run(&format!("keep listener {address}:0"));
        let at = at.strip_prefix("ok ").expect("a listener").to_owned();
        let client = outside.run(move || TcpStream::connect(at)).expect("connected");
        client.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        Self { application, client }
    }

    /// It is answered.
    fn check(mut self) {
        assert_eq!(self.application.run("serve 100000"), "ok done");
        let mut bytes = Vec::new();
        assert_eq!(self.client.read_to_end(&mut bytes).expect("answered"), 100_000);
    }
}

#[test]
fn reported_connections_go_on_and_end_at_their_time() {
    let Some(lab) = Lab::new("reported_connections_go_on_and_end_at_their_time") else { return };
    let outside = Outside::new();
    for (outer, inner) in OUTSIDE.iter().zip(INSIDE) {
        let mut application = lab.inside();
        let far_end = connected(&outside, &mut application, outer);
        let (now, later) = (Served::start(&lab, &outside, inner), Served::start(&lab, &outside, inner));
        lab.enrol();

        let found = lab.look(true, false);
        let remotes: Vec<_> = found.older.iter().map(|socket| socket.remote.ip().to_string()).collect();
        assert_eq!(remotes, [outer.trim_matches(['[', ']'])]);
        assert_eq!((found.kept, found.older_ended, found.escaped.len()), (1, 0, 0));
        assert_eq!(application.run("talk hello"), "ok hello");
        now.check();

        // It is known now, also to an agent that starts again.
        let again = lab.look(false, false);
        assert_eq!((again.older.len(), again.kept, again.escaped.len()), (0, 1, 0));

        // Its time is over.
        let over = lab.look(false, true);
        assert_eq!((over.older.len(), over.kept, over.older_ended, over.escaped.len()), (0, 0, 1, 0));
        assert!(over.not_ended.is_empty(), "{:?}", over.not_ended);
        lab.set_strict();
        assert_ended(&mut application, far_end);
        later.check();
        lab.capture.detach(lab.cgroup.inode().unwrap()).unwrap();
    }
}

#[test]
fn reset_connections_end_at_once_and_those_from_outside_go_on() {
    let Some(lab) = Lab::new("reset_connections_end_at_once_and_those_from_outside_go_on") else { return };
    let outside = Outside::new();
    for (outer, inner) in OUTSIDE.iter().zip(INSIDE) {
        let mut application = lab.inside();
        let far_end = connected(&outside, &mut application, outer);
        let served = Served::start(&lab, &outside, inner);
        lab.enrol();
        let found = lab.look(true, true);
        assert_eq!((found.older.len(), found.kept, found.older_ended), (1, 0, 1));
        lab.set_strict();
        assert_ended(&mut application, far_end);
        served.check();
        lab.capture.detach(lab.cgroup.inode().unwrap()).unwrap();
        assert_eq!(lab.count("dropped_older_connection"), 0);
    }
}

#[test]
fn what_nobody_looked_at_does_not_leave() {
    let Some(lab) = Lab::new("what_nobody_looked_at_does_not_leave") else { return };
    let outside = Outside::new();
    let mut application = lab.inside();
    let _far_end = connected(&outside, &mut application, OUTSIDE[0]);
    let strict = WorkloadPolicy { drops_older: true, ..lab.policy() };
    lab.capture.attach(lab.cgroup.path(), &strict).unwrap();
    assert_eq!(application.run("talk hello"), errno(Errno::EAGAIN), "no answer in time");
    assert!(lab.count("dropped_older_connection") > 0);
    assert_eq!(lab.count("passed_older_connection"), 0);
    // With the word of somebody who looked, it goes on.
    assert_eq!(lab.look(true, false).kept, 1);
    lab.set_strict();
    let answer = application.run("talk x");
    assert!(answer.starts_with("ok hello"), "what was sent meanwhile comes first: {answer}");
}

#[test]
fn what_escapes_is_found_once_and_ended() {
    let Some(lab) = Lab::new("what_escapes_is_found_once_and_ended") else { return };
    let outside = Outside::new();
    let inner_cgroup = lab.cgroup.child("inner").unwrap();
    for (outer, inner) in OUTSIDE.iter().zip(INSIDE) {
        lab.enrol();
        lab.set_strict();
        assert_eq!(lab.look(true, false).older.len(), 0);
        // As if somebody had taken the programs away.
        lab.capture.detach(lab.cgroup.inode().unwrap()).unwrap();
        let (mut application, mut below) = (lab.inside(), Application::start(Some(&inner_cgroup)));
        let far_end = connected(&outside, &mut application, outer);
        let far_end_below = connected(&outside, &mut below, outer);
        let served = Served::start(&lab, &outside, inner);
        lab.enrol();
        lab.set_strict();

        let found = lab.look(false, false);
        assert_eq!((found.escaped.len(), found.older.len(), found.kept), (2, 0, 0));
        assert!(found.not_ended.is_empty(), "{:?}", found.not_ended);
        assert_ended(&mut application, far_end);
        assert_ended(&mut below, far_end_below);
        served.check();
        assert_eq!(lab.look(false, false).escaped.len(), 0);
        lab.capture.detach(lab.cgroup.inode().unwrap()).unwrap();
    }
}

#[test]
fn a_workload_is_looked_at_in_its_own_network_namespace() {
    let Some(lab) = Lab::new("a_workload_is_looked_at_in_its_own_network_namespace") else { return };
    let directory = tempfile::tempdir().unwrap();
    let namespace = directory.path().join("netns");
    netns::create_isolated(&namespace).unwrap();
    let inside = Arc::new(Namespace::open(&namespace).unwrap());
    let server = inside
        .inside(|| {
            ip(&format!("address add {OUTSIDE_V4}/32 dev lo"));
            Ok(listen(&format!("{OUTSIDE_V4}:0")))
        })
        .unwrap();
    let at = server.local_addr().unwrap().to_string();
    let mut application = inside.inside(|| Ok(lab.inside())).unwrap();
    assert_eq!(application.run(&format!("keep connect {at}")), format!("ok {at}"));
    let far_end = echo(server.accept().unwrap().0);
    lab.enrol();

    let nothing = Direct::default();
    let rules = Rules { direct: &nothing, direct_ever: &nothing, first: false, end_older: false };
    let look = |namespaces| {
        let subject = Subject { namespaces, ..lab.subject() };
        examine(&lab.capture, &subject, &rules).unwrap().escaped.len()
    };
    assert_eq!(look(vec![None]), 0, "it is not here");
    assert_eq!(look(vec![None, Some(Arc::clone(&inside))]), 1);
    assert_ended(&mut application, far_end);
    drop((application, server));
    netns::delete(&namespace).unwrap();
}

#[test]
fn what_is_permitted_or_captured_is_no_escape() {
    let Some(lab) = Lab::new("what_is_permitted_or_captured_is_no_escape") else { return };
    let outside = Outside::new();
    lab.enrol();
    lab.set_strict();
    let ranges = ["198.51.100.0/24".parse().unwrap()];
    lab.capture.set_bypass(&ranges).unwrap();
    let (mut captured, mut bypassed, mut resolving) = (lab.inside(), lab.inside(), lab.inside());
    assert_eq!(captured.run("keep connect 203.0.113.7:80"), "ok 203.0.113.7:80");
    let _far_end = connected(&outside, &mut bypassed, OUTSIDE[0]);
    let (dns, resolver) = server(&outside, OUTSIDE[1]);
    let resolvers = [resolver.parse().unwrap()];
    lab.capture.set_resolvers(&resolvers).unwrap();
    assert_eq!(resolving.run(&format!("keep connect {resolver}")), format!("ok {resolver}"));
    let _answering = dns.accept().expect("went direct");
    let accepted = Served::start(&lab, &outside, INSIDE[0]);

    let permitted = Direct::new(&ranges, &resolvers);
    let look = |direct: &Direct, ever: &Direct| {
        let rules = Rules { direct, direct_ever: ever, first: false, end_older: false };
        let found = examine(&lab.capture, &lab.subject(), &rules).unwrap();
        (found.escaped.len(), found.older.len(), found.kept)
    };
    assert_eq!(look(&permitted, &permitted), (0, 0, 0));
    accepted.check();
    assert_eq!(Direct::new(&lab.capture.bypass().unwrap(), &lab.capture.resolvers().unwrap()), permitted);

    // The permission goes: what it let begin is older than that, and goes on.
    lab.capture.set_bypass(&[]).unwrap();
    assert_eq!(look(&Direct::new(&[], &resolvers), &permitted), (0, 1, 1));
    assert_eq!(bypassed.run("talk hello"), "ok hello");
    // The control: without that memory it would be an escape.
    lab.capture.forget_older(WORKLOAD).unwrap();
    assert_eq!(look(&Direct::new(&[], &resolvers), &Direct::default()), (1, 0, 0));
}

#[test]
fn sockets_from_elsewhere_are_found_with_their_processes() {
    let Some(lab) = Lab::new("sockets_from_elsewhere_are_found_with_their_processes") else { return };
    let outside = Outside::new();
    lab.enrol();
    let find = |end| -> Vec<Foreign> { foreign(&lab.subject(), &Direct::default(), end).unwrap() };
    // Its own sockets, captured or refused, are not from elsewhere.
    let mut own = lab.inside();
    assert_eq!(own.run("keep connect 203.0.113.7:80"), "ok 203.0.113.7:80");
    assert!(own.run("keep server 0.0.0.0:0").starts_with("ok "));
    assert_eq!(find(false).len(), 0);

    // Opened, then moved: the sockets stay with the cgroup they were made in.
    let mut moved = Application::start(None);
    let far_end = connected(&outside, &mut moved, OUTSIDE[0]);
    let mut datagrams = Application::start(None);
    assert!(datagrams.run("keep server 0.0.0.0:0").starts_with("ok "));
    let mut listening = Application::start(None);
    assert!(listening.run("keep listener 0.0.0.0:0").starts_with("ok "));
    for application in [&moved, &datagrams, &listening] {
        lab.cgroup.add(application.id()).unwrap();
    }
    let found = find(false);
    let mut who: Vec<_> = found
        .iter()
        .map(|foreign| (foreign.socket.protocol.name(), foreign.holder.pid, foreign.holder.name.as_str()))
        .collect();
    who.sort_unstable();
    assert_eq!(who, [("tcp", moved.id(), "connector"), ("udp", datagrams.id(), "connector")]);
    assert_eq!(moved.run("talk hello"), "ok hello", "they are reported, and go on");

    assert!(find(true).iter().all(|foreign| foreign.ended));
    assert_ended(&mut moved, far_end);
}

#[test]
fn the_kernel_lists_the_sockets_of_a_cgroup_only() {
    let Some(lab) = Lab::new("the_kernel_lists_the_sockets_of_a_cgroup_only") else { return };
    let (mut inside, mut outside) = (lab.inside(), Application::start(None));
    let mut ours = Vec::new();
    for application in [&mut outside, &mut inside] {
        ours.clear();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let at = application.run(&format!("keep listener {address}"));
            ours.push(at.strip_prefix("ok ").unwrap().parse().unwrap());
        }
    }
    let inode = lab.cgroup.inode().unwrap();
    let many = |count: u64| (1_000_000..1_000_000 + count).chain([inode]).collect();
    // With many cgroups asked for, the one is still found, wherever it stands.
    for cgroups in [vec![inode], many(300), many(1000)] {
        let found = list(Protocol::Tcp, &cgroups, None).unwrap();
        let at: Vec<_> = found.iter().map(|socket| socket.local).collect();
        assert_eq!(at, ours);
        assert!(found.iter().all(|socket| socket.state == State::Listen && socket.cgroup == inode));
    }
    assert_eq!(list(Protocol::Tcp, &[inode + 1_000_000], None).unwrap(), []);
    assert!(list(Protocol::Tcp, &[], None).unwrap().len() >= 4);
}
