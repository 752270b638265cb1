//! Strict start, measured from process start: processes whose first instructions try to get out, each born in a cgroup that
//! did not exist a moment before. And what the guard costs who is left alone.

use std::{
    net::{SocketAddr, SocketAddrV4, TcpListener, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use egret::datapath::{Class, Depths};
use egret_tests::{bpf, cgroup::Cgroup};
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_setaffinity},
    sys::{
        socket::{
            AddressFamily, Backlog, MsgFlags, SockFlag, SockType, SockaddrIn, connect, sendto, setsockopt,
            socket, sockopt::SendTimeout,
        },
        time::{TimeVal, TimeValLike as _},
    },
    unistd::Pid,
};

use crate::{
    born::{Process, number},
    lab::{Lab, OUTSIDE_V4, WORKLOAD, listen, port},
    outside::{OUTSIDE, Outside},
};

const STARTS: usize = 300;
/// As many as the kernel allows: everybody fits, and can be counted at the end.
const BACKLOG: Backlog = Backlog::MAXCONN;
/// Every so many is not ours.
const NOT_OURS: usize = 5;
/// How long a process tries to connect.
const PATIENCE: Duration = Duration::from_secs(10);
/// Where those go that are ours, and the others.
const PORTS: [u16; 2] = [7001, 7002];

/// When a process's cgroup is classified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Before it starts: nothing is refused.
    Before,
    /// At the same time, whichever is first.
    Meanwhile,
    /// When it has been refused.
    After,
}

/// A cgroup to be classified.
struct Born {
    path: PathBuf,
    inode: u64,
    ours: bool,
    done: mpsc::Sender<()>,
}

#[test]
fn no_first_instruction_gets_out() {
    let Some(lab) = Lab::new("no_first_instruction_gets_out") else { return };
    let outside = Outside::new();
    let witnesses = PORTS.map(|port| {
        let at = format!("{}:{port}", OUTSIDE[0]);
        let datagrams = outside.socket(&at);
        let connections = outside.run(move || listen(&at));
        (connections, datagrams)
    });
    for listener in witnesses.iter().map(|(connections, _)| connections).chain([&lab.listener_v4]) {
        nix::sys::socket::listen(listener, BACKLOG).expect("a backlog");
    }
    // The control: without the guard the first instruction does get out, and is seen.
    let early = lab.cgroup.child("early").unwrap();
    assert_eq!(Process::start(&early, || try_to_get_out(address(PORTS[0]))).outcome(), [0, 0]);
    let (direct, datagrams) = &witnesses[0];
    assert_eq!((accepted(direct).len(), received(datagrams)), (1, 1));
    lab.capture.guard(lab.cgroup.path(), Depths::CHILDREN).unwrap();

    let started = Instant::now();
    let refused = thread::scope(|scope| {
        let (births, queue) = mpsc::channel();
        scope.spawn(|| queue.into_iter().for_each(|born| settle(&lab, &born)));
        (0..STARTS).filter(|number| one_start(&lab, *number, &births)).count()
    });
    let elapsed = started.elapsed();

    let ours = (0..STARTS).filter(|number| is_ours(*number)).count();
    let captured = accepted(&lab.listener_v4);
    let original = address(PORTS[0]).into();
    let take = |peer| {
        lab.capture
            .take_original_destination(WORKLOAD, peer, port(&lab.listener_v4))
            .map(|taken| taken.destination)
    };
    let right = captured.iter().filter(|peer| take(**peer) == Some(original)).count();
    assert_eq!((captured.len(), right), (ours, ours), "all of ours were captured");
    let [(direct, datagrams), (others, others_datagrams)] = witnesses;
    assert_eq!((accepted(&direct), received(&datagrams)), (vec![], 0), "none of ours arrived outside");
    assert_eq!(accepted(&others).len(), STARTS - ours, "all others did");
    assert!(received(&others_datagrams) > 0, "and what they sent, when they were known");
    println!(
        "{STARTS} process starts in {elapsed:.1?}: {refused} were refused at first, {} attempts in all; {ours} captured, \
         0 arrived directly",
        lab.count("guard_refused")
    );
}

/// Outside.
fn address(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(OUTSIDE[0].parse().expect("an address"), port)
}

fn is_ours(number: usize) -> bool {
    !number.is_multiple_of(NOT_OURS)
}

/// What the agent does with a new cgroup.
fn settle(lab: &Lab, born: &Born) {
    if born.ours {
        lab.capture.attach(&born.path, &lab.policy()).expect("enrolled");
    } else {
        lab.capture.classify(born.inode, Class::NotOurs).expect("classified");
    }
    // Nobody waits for it if the test has failed.
    let _ = born.done.send(());
}

/// Starts a process in a new cgroup; whether it was refused at first.
fn one_start(lab: &Lab, number: usize, births: &mpsc::Sender<Born>) -> bool {
    let when = [When::Before, When::Meanwhile, When::After][number % 3];
    let ours = is_ours(number);
    let child = lab.cgroup.child(&format!("pod{number}")).expect("cgroup");
    let (done, classified) = mpsc::channel();
    let inode = child.inode().expect("inode");
    let born = Born { path: child.path().to_owned(), inode, ours, done };
    let to = address(PORTS[usize::from(!ours)]);
    let start = || Process::start(&child, move || try_to_get_out(to));
    let process = match when {
        When::Before | When::Meanwhile => {
            births.send(born).expect("somebody classifies");
            if when == When::Before {
                classified.recv().expect("classified");
            }
            start()
        }
        When::After => {
            let before = lab.count("guard_refused");
            let process = start();
            let deadline = Instant::now() + PATIENCE;
            while lab.count("guard_refused") == before {
                assert!(Instant::now() < deadline, "not refused");
            }
            births.send(born).expect("somebody classifies");
            process
        }
    };
    let [first, last] = process.outcome();
    let refused = Errno::ECONNREFUSED as u64;
    match when {
        When::Before => assert_eq!(first, 0, "classified, so nothing is refused"),
        When::Meanwhile => assert!(first == 0 || first == refused, "{first}"),
        When::After => assert_eq!(first, refused),
    }
    assert_eq!(last, 0, "in the end it is captured, or let through: {when:?}");
    if when != When::Before {
        classified.recv().expect("classified");
    }
    lab.capture.detach(inode).expect("detached");
    first != 0
}

/// The first instructions of a process: sends and connects, until it can. What the first and the last `connect()` said.
fn try_to_get_out(to: SocketAddrV4) -> [u64; 2] {
    let to = SockaddrIn::from(to);
    let mut first = None;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let connected = new_socket(SockType::Stream).and_then(|stream| connect(stream.as_raw_fd(), &to));
        let sent = new_socket(SockType::Datagram)
            .and_then(|datagram| sendto(datagram.as_raw_fd(), b"x", &to, MsgFlags::empty()));
        // Where it goes, if anywhere, is the witness's to say.
        let _ = sent;
        let first = *first.get_or_insert(number(connected));
        if connected != Err(Errno::ECONNREFUSED) {
            return [first, number(connected)];
        }
        thread::yield_now();
    }
    [first.unwrap_or_default(), Errno::ETIMEDOUT as u64]
}

fn new_socket(kind: SockType) -> Result<OwnedFd, Errno> {
    let socket = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, SendTimeout, &TimeVal::seconds(5))?;
    Ok(socket)
}

/// Who has connected.
fn accepted(listener: &TcpListener) -> Vec<SocketAddr> {
    listener.set_nonblocking(true).expect("non-blocking");
    std::iter::from_fn(|| listener.accept().ok()).map(|(_, peer)| peer).collect()
}

/// How many datagrams have arrived.
fn received(socket: &UdpSocket) -> usize {
    socket.set_nonblocking(true).expect("non-blocking");
    std::iter::from_fn(|| socket.recv(&mut [0; 8]).ok()).count()
}

/// Batches of one measurement; the quickest counts.
const BATCHES: usize = 10;
const CONNECTS: u32 = 500;
const SENDS: u32 = 3000;
const ROUNDS: usize = 4;

/// A number to be read, not a limit: the machine is shared.
#[test]
fn what_a_guard_costs_who_is_left_alone() {
    let Some(lab) = Lab::new("what_a_guard_costs_who_is_left_alone") else { return };
    let outside = Outside::new();
    // Bound, so that nobody answers that nobody is there.
    let sink = outside.socket(&format!("{}:9", OUTSIDE[0]));
    let elsewhere = Cgroup::new().unwrap();
    // As a burstable pod: both depths are looked up.
    let child = lab.cgroup.child("burstable").unwrap();
    let pod = child.child("pod").unwrap();
    lab.capture.classify(pod.inode().unwrap(), Class::NotOurs).unwrap();
    let states =
        [("no guard anywhere", None), ("guard elsewhere", Some(&elsewhere)), ("guarded", Some(&lab.cgroup))];
    let mut best = [[u64::MAX; 2]; 3];
    for round in 0..ROUNDS {
        for offset in 0..states.len() {
            let state = (round + offset) % states.len();
            if let Some(parent) = states[state].1 {
                lab.capture.guard(parent.path(), Depths::TWO).unwrap();
            }
            let measured = Process::start(&pod, measure).outcome();
            for (best, measured) in best[state].iter_mut().zip(measured) {
                *best = (*best).min(measured);
            }
            for parent in lab.capture.guarded().unwrap() {
                lab.capture.unguard(parent).unwrap();
            }
        }
    }
    for ((name, _), [connect, send]) in states.iter().zip(best) {
        println!("{name}: connect() of TCP {connect} ns, send() of UDP by a link {send} ns");
    }

    // By the kernel's own clock, which costs something too.
    lab.capture.guard(lab.cgroup.path(), Depths::TWO).unwrap();
    let clock = bpf::count_run_time().unwrap();
    Process::start(&pod, measure).outcome();
    for (hook, program) in bpf::attached(lab.cgroup.path()).unwrap() {
        let (time, runs) = bpf::run_time(program).unwrap();
        if let Some(name) = [(1, "packet"), (10, "connect()")]
            .into_iter()
            .find_map(|(number, name)| (number == hook).then_some(name))
        {
            assert!(runs > 0, "the measured process is below the guard");
            println!("the guard's program for a {name}: {} ns", time.as_nanos() / u128::from(runs));
        }
    }
    drop((clock, pod, child, sink));
    assert_eq!(lab.counters_like("guard_"), []);
}

/// Nanoseconds of a `connect()` that is refused by a host, and of a datagram that leaves.
fn measure() -> [u64; 2] {
    let mut cpu = CpuSet::new();
    let pinned = cpu.set(0).and_then(|()| sched_setaffinity(Pid::from_raw(0), &cpu));
    let refuses: Result<SocketAddrV4, _> = (OUTSIDE_V4.parse()).map(|ip| SocketAddrV4::new(ip, 9));
    let sink: Result<SocketAddrV4, _> = (OUTSIDE[0].parse()).map(|ip| SocketAddrV4::new(ip, 9));
    let (Ok(()), Ok(refuses), Ok(sink)) = (pinned, refuses, sink) else { return [0; 2] };
    let (refuses, sink) = (SockaddrIn::from(refuses), SockaddrIn::from(sink));
    let connects = quickest(CONNECTS, || {
        new_socket(SockType::Stream)
            .is_ok_and(|stream| connect(stream.as_raw_fd(), &refuses) == Err(Errno::ECONNREFUSED))
    });
    let datagrams = new_socket(SockType::Datagram)
        .and_then(|socket| connect(socket.as_raw_fd(), &sink).map(|()| UdpSocket::from(socket)));
    let Ok(datagrams) = datagrams else { return [0; 2] };
    [connects, quickest(SENDS, || datagrams.send(b"x").is_ok())]
}

/// The quickest of several batches, in nanoseconds for one; 0: it failed.
fn quickest(times: u32, f: impl Fn() -> bool) -> u64 {
    let mut quickest = u64::MAX;
    for _ in 0..BATCHES {
        let started = Instant::now();
        for _ in 0..times {
            if !f() {
                return 0;
            }
        }
        quickest = quickest.min((started.elapsed() / times).as_nanos() as u64);
    }
    quickest
}
