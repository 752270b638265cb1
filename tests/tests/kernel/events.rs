//! What the kernel programs tell of bypassed connections and refused calls: everything, once, and with the right figures.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use egret::datapath::{Call, Capture, Event, Events};
use egret_tests::application::errno;
use nix::{
    errno::Errno,
    libc,
    sys::socket::{Backlog, setsockopt, sockopt::Linger},
};
use tokio::runtime::{Builder, Runtime};

use crate::lab::{Lab, OUTSIDE_V4, OUTSIDE_V6, WORKLOAD, listen, port};

const PATIENCE: Duration = Duration::from_secs(30);

/// The reader of a lab's events, and what it has read.
struct Reader {
    runtime: Runtime,
    events: Events,
}

impl Reader {
    fn new(capture: &Capture) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let events = {
            let _guard = runtime.enter();
            capture.take_events().expect("the ring")
        };
        Self { runtime, events }
    }

    /// Reads until there are so many, and once more.
    fn read(&mut self, count: usize) -> Vec<Event> {
        let mut read = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while read.len() < count {
            self.events.read(|event| read.push(event)).expect("readable");
            assert!(Instant::now() < deadline, "{} of {count} events: {read:#?}", read.len());
            if read.len() < count {
                let ready = async { tokio::time::timeout(PATIENCE, self.events.ready()).await };
                self.runtime.block_on(ready).expect("an event").expect("readable");
            }
        }
        self.events.read(|event| read.push(event)).expect("readable");
        read
    }
}

/// A lab whose addresses are bypassed.
fn lab(test: &str) -> Option<(Lab, Reader)> {
    let lab = Lab::new(test)?;
    lab.enrol();
    let ranges = ["192.0.2.0/24", "2001:db8::/64"].map(|range| range.parse().expect("a range"));
    lab.capture.set_bypass(&ranges).expect("bypassed");
    let reader = Reader::new(&lab.capture);
    Some((lab, reader))
}

/// A server that does this with its first connection.
fn serve(listener: TcpListener, act: impl FnOnce(TcpStream) + Send + 'static) -> thread::JoinHandle<()> {
    thread::spawn(move || act(listener.accept().expect("a connection").0))
}

fn receive(stream: &mut TcpStream, bytes: usize) {
    stream.read_exact(&mut vec![0; bytes]).expect("bytes");
}

fn send(stream: &mut TcpStream, bytes: usize) {
    stream.write_all(&vec![b'y'; bytes]).expect("sent");
}

fn reset_at_close(stream: &TcpStream) {
    setsockopt(stream, Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).expect("an option");
}

/// The only connection among the events: opened, then closed. How it began, with what it carried.
fn one(events: &[Event]) -> (Call, u64, u64, bool) {
    let [Event::Opened(opened), Event::Closed { call, connect_time, duration, figures }] = events else {
        unreachable!("{events:#?}")
    };
    assert_eq!((opened.cookie, &opened.caller), (call.cookie, &call.caller));
    assert!(*duration < PATIENCE && connect_time.is_none_or(|time| time <= *duration));
    (call.clone(), figures.sent, figures.received, connect_time.is_some())
}

#[test]
fn bytes_are_exact_whoever_closes_and_however() {
    type Act = fn(TcpStream);
    let Some((lab, mut reader)) = lab("bytes_are_exact_whoever_closes_and_however") else { return };
    let mut application = lab.inside();
    let cases: [(&str, &str, Act, u64, u64); 9] = [
        (
            "the server closes first",
            "s1000 e",
            |mut stream| {
                receive(&mut stream, 1000);
                send(&mut stream, 5000);
            },
            1000,
            5000,
        ),
        (
            "the workload closes first",
            "s70000 r3",
            |mut stream| {
                receive(&mut stream, 70000);
                send(&mut stream, 3);
                stream.read_to_end(&mut Vec::new()).unwrap();
            },
            70000,
            3,
        ),
        (
            "the workload says that it has sent all",
            "s10 f e",
            |mut stream| {
                stream.read_to_end(&mut Vec::new()).unwrap();
                send(&mut stream, 3_000_000);
            },
            10,
            3_000_000,
        ),
        (
            "both say so, and close later",
            "s10 f e",
            |mut stream| {
                send(&mut stream, 20);
                stream.shutdown(Shutdown::Write).unwrap();
                stream.read_to_end(&mut Vec::new()).unwrap();
            },
            10,
            20,
        ),
        (
            "the workload resets",
            "s5 r1 l",
            |mut stream| {
                receive(&mut stream, 5);
                send(&mut stream, 1);
                drop(stream.read_to_end(&mut Vec::new()));
            },
            5,
            1,
        ),
        (
            "the server resets",
            "s5 r1 s1 e",
            |mut stream| {
                receive(&mut stream, 5);
                send(&mut stream, 1);
                receive(&mut stream, 1);
                reset_at_close(&stream);
            },
            6,
            1,
        ),
        (
            "the workload leaves bytes unread",
            "s5 r1",
            |mut stream| {
                receive(&mut stream, 5);
                send(&mut stream, 900);
                drop(stream.read_to_end(&mut Vec::new()));
            },
            5,
            900,
        ),
        ("nothing is said", "f e", |stream| drop(stream), 0, 0),
        ("much is sent", "s20000000 e", |mut stream| receive(&mut stream, 20_000_000), 20_000_000, 0),
    ];
    for address in [OUTSIDE_V4, &format!("[{OUTSIDE_V6}]")] {
        for (case, steps, act, sent, received) in cases {
            let listener = listen(&format!("{address}:0"));
            let at = listener.local_addr().unwrap();
            let server = serve(listener, act);
            let answer = application.run(&format!("play {steps} {at}"));
            assert!(answer.starts_with("ok "), "{case}: {answer}");
            let (call, was_sent, was_received, connected) = one(&reader.read(2));
            server.join().unwrap();
            assert_eq!((was_sent, was_received, connected), (sent, received, true), "{case} at {at}");
            assert_eq!(
                (call.destination, call.workload, call.decision),
                (Some(at), WORKLOAD, "bypassed_range")
            );
            let caller = call.caller.unwrap();
            assert_eq!((caller.pid, caller.name.as_str()), (application.id(), "connector"), "{case}");
        }
    }
    assert_eq!(lab.count("event_lost"), 0);
}

#[test]
fn a_connection_that_never_was_ends_too() {
    let Some((lab, mut reader)) = lab("a_connection_that_never_was_ends_too") else { return };
    let mut application = lab.inside();
    let closed = listen(&format!("{OUTSIDE_V4}:0")).local_addr().unwrap();
    assert_eq!(application.connect(&closed.to_string()), errno(Errno::ECONNREFUSED));
    let (call, sent, received, connected) = one(&reader.read(2));
    assert_eq!((call.destination, sent, received, connected), (Some(closed), 0, 0, false));
    // Without a single packet: there is no route.
    assert_eq!(application.connect("192.0.2.77:80"), errno(Errno::ENETUNREACH));
    assert_eq!(
        application.run("server 127.0.0.1:0").split(':').next(),
        Some("ok 127.0.0.1"),
        "it closes the socket"
    );
    let (call, _, _, connected) = one(&reader.read(2));
    assert_eq!((call.destination, connected), (Some("192.0.2.77:80".parse().unwrap()), false));
}

#[test]
fn a_process_that_is_killed_ends_its_connections() {
    let Some((lab, mut reader)) = lab("a_process_that_is_killed_ends_its_connections") else { return };
    let mut application = lab.inside();
    let listener = listen(&format!("{OUTSIDE_V4}:0"));
    assert!(application.connect(&listener.local_addr().unwrap().to_string()).starts_with("ok "));
    let (mut stream, _) = listener.accept().unwrap();
    send(&mut stream, 100);
    assert!(matches!(reader.read(1)[..], [Event::Opened(_)]));
    drop(application);
    let [Event::Closed { figures, .. }] = &reader.read(1)[..] else { panic!() };
    assert_eq!((figures.sent, figures.received), (0, 100));
}

#[test]
fn what_is_captured_or_outside_is_not_told() {
    let Some((lab, mut reader)) = lab("what_is_captured_or_outside_is_not_told") else { return };
    let mut application = lab.inside();
    assert_eq!(application.connect("203.0.113.7:80"), "ok 203.0.113.7:80");
    let (stream, peer) = lab.listener_v4.accept().unwrap();
    let taken = lab.capture.take_original_destination(WORKLOAD, peer, port(&lab.listener_v4)).unwrap();
    let caller = taken.caller.unwrap();
    assert_eq!((caller.pid, caller.name.as_str()), (application.id(), "connector"));
    drop(stream);
    // A socket that was bypassed, and is captured then: its first connection never was.
    let closed = listen(&format!("{OUTSIDE_V4}:0")).local_addr().unwrap();
    assert_eq!(application.run(&format!("connect {closed} 203.0.113.8:80")), "ok 203.0.113.8:80");
    drop(lab.take(true));
    let (call, ..) = one(&reader.read(2));
    assert_eq!(call.destination, Some(closed));
    // Loopback, what came from outside, and who is not enrolled.
    let listener = listen("127.0.0.1:0");
    assert!(application.connect(&listener.local_addr().unwrap().to_string()).starts_with("ok "));
    drop(listener.accept().unwrap());
    let outside = listen(&format!("{OUTSIDE_V4}:0"));
    drop(TcpStream::connect(outside.local_addr().unwrap()).unwrap());
    assert_eq!(application.run("socket 2 2 17"), "ok made");
    assert_eq!(application.run("send no 203.0.113.7:443"), errno(Errno::ECONNREFUSED));
    assert!(matches!(&reader.read(1)[..], [Event::Refused(_)]), "nothing before it");
}

#[test]
fn refused_calls_are_told() {
    let Some((lab, mut reader)) = lab("refused_calls_are_told") else { return };
    let mut application = lab.inside();
    for (command, decision, destination) in [
        ("send no 203.0.113.7:443", "refused_datagram", Some("203.0.113.7:443")),
        ("send no [2001:db8:7::7]:443", "refused_datagram", Some("[2001:db8:7::7]:443")),
        ("socket 2 3 6", "refused_raw_socket", None),
        ("socket 2 2 136", "refused_socket_class", None),
        ("device lo 203.0.113.7:0", "", None),
        ("connect 224.0.0.1:80", "", None),
    ] {
        assert!(application.run(command).starts_with("errno "), "{command}");
        if decision.is_empty() {
            // As it would fail without us.
            continue;
        }
        let [Event::Refused(call)] = &reader.read(1)[..] else { panic!("{command}") };
        let expected = destination.map(|destination| destination.parse().unwrap());
        assert_eq!(
            (call.decision, call.destination, call.workload),
            (decision, expected, WORKLOAD),
            "{command}"
        );
        assert_eq!(call.caller.as_ref().unwrap().pid, application.id());
    }
}

#[test]
fn nothing_is_lost_at_thousands_a_second() {
    // As many as the agent is told of between two looks at 40,000 a second; four times what the ring holds in all, and fewer than the
    // kernel has source ports for while they are in TIME_WAIT.
    const BURST: usize = 2000;
    const BURSTS: usize = 8;
    let Some((lab, mut reader)) = lab("nothing_is_lost_at_thousands_a_second") else { return };
    let mut application = lab.inside();
    let listener = listen(&format!("{OUTSIDE_V4}:0"));
    let at = listener.local_addr().unwrap();
    // A short queue would have SYNs dropped where this thread comes late, which costs a second each.
    nix::sys::socket::listen(&listener, Backlog::MAXCONN).unwrap();
    let server = thread::spawn(move || (0..BURST * BURSTS).for_each(|_| drop(listener.accept().unwrap())));
    let begin = Instant::now();
    for _ in 0..BURSTS {
        assert_eq!(application.run(&format!("storm {BURST} {at}")), format!("ok {BURST} errno 0"));
        let events = reader.read(2 * BURST);
        let closed = events.iter().filter(|event| matches!(event, Event::Closed { .. })).count();
        assert_eq!((events.len(), closed), (2 * BURST, BURST));
    }
    let rate = (BURST * BURSTS) as f64 / begin.elapsed().as_secs_f64();
    eprintln!("{} bypassed connections at {rate:.0} a second", BURST * BURSTS);
    server.join().unwrap();
    assert_eq!(lab.count("event_lost"), 0);
}

#[test]
fn what_does_not_fit_is_counted_and_refusals_leave_room() {
    const COUNT: usize = 5000;
    let Some(lab) = Lab::new("what_does_not_fit_is_counted_and_refusals_leave_room") else { return };
    // Nobody listens, and nobody reads.
    lab.capture
        .attach(lab.cgroup.path(), &egret::datapath::WorkloadPolicy { listener_v4: 0, ..lab.policy() })
        .unwrap();
    lab.capture.set_bypass(&["192.0.2.0/24".parse().unwrap()]).unwrap();
    let mut application = lab.inside();
    assert_eq!(
        application.run(&format!("storm {COUNT} 203.0.113.7:80")),
        format!("ok 0 errno {}", Errno::ECONNREFUSED as i32)
    );
    let lost = usize::try_from(lab.count("event_lost")).unwrap();
    let listener = listen(&format!("{OUTSIDE_V4}:0"));
    assert!(application.run(&format!("play f {}", listener.local_addr().unwrap())).starts_with("ok "));
    drop(listener.accept().unwrap());
    lab.wait_for_count("bypassed_range", 1);

    let mut reader = Reader::new(&lab.capture);
    let events = reader.read(COUNT - lost + 2);
    let refused = events.iter().filter(|event| matches!(event, Event::Refused(_))).count();
    assert_eq!(refused + lost, COUNT, "each was told or counted");
    assert!(lost > 0 && refused > 1000, "{refused} told, {lost} lost");
    assert_eq!(events.len() - refused, 2, "the bypassed connection still had room");
}

#[test]
fn a_successor_is_told_and_its_predecessor_is_not() {
    let Some((lab, mut reader)) = lab("a_successor_is_told_and_its_predecessor_is_not") else { return };
    let mut application = lab.inside();
    let listener = listen(&format!("{OUTSIDE_V4}:0"));
    let connect = format!("connect {}", listener.local_addr().unwrap());
    assert!(application.run(&connect).starts_with("ok "));
    let [Event::Opened(before)] = &reader.read(1)[..] else { panic!() };

    let successor = Capture::load(&lab.pins).unwrap();
    let mut new = Reader::new(&successor);
    assert_eq!(successor.attach(lab.cgroup.path(), &lab.policy()).unwrap(), 0);
    // The end of the first connection, and all of a second.
    assert!(application.run(&connect).starts_with("ok "));
    drop(application);
    let events = new.read(3);
    let ends: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Closed { call, .. } => Some(call.cookie),
            Event::Opened(_) | Event::Refused(_) => None,
        })
        .collect();
    assert_eq!((events.len(), ends.len()), (3, 2), "{events:#?}");
    assert!(ends.contains(&before.cookie));
    assert!(reader.read(0).is_empty());
    assert!(lab.capture.take_events().is_err(), "there is one reader");
}
