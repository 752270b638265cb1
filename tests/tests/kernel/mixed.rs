//! A mixed load on everything that a workload may do: nothing of it is taken for an escape, and nothing of it is dropped that
//! should pass.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use egret::{
    datapath::WorkloadPolicy,
    node::sockets::{Direct, Rules, Subject, examine},
};
use nix::errno::Errno;

use crate::{
    lab::{Lab, WORKLOAD, errno, listen},
    outside::{INSIDE, OUTSIDE, Outside},
};

/// How long the load is on.
const LOAD: Duration = Duration::from_secs(5);

/// Sends back what comes, on every connection, until it is told to stop.
fn echo_server(listener: TcpListener, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let stop = Arc::clone(stop);
    listener.set_nonblocking(true).expect("non-blocking");
    thread::spawn(move || {
        while !stop.load(SeqCst) {
            let Ok((stream, _)) = listener.accept() else {
                thread::park_timeout(Duration::from_millis(1));
                continue;
            };
            thread::spawn(move || echo(stream));
        }
    })
}

fn echo(mut stream: TcpStream) {
    let mut bytes = [0; 4096];
    stream.set_nonblocking(false).expect("blocking");
    while let Ok(length @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..length]).is_err() {
            return;
        }
    }
}

#[test]
fn nothing_of_a_mixed_load_is_taken_for_an_escape() {
    let Some(lab) = Lab::new("nothing_of_a_mixed_load_is_taken_for_an_escape") else { return };
    let outside = Outside::new();
    let strict = WorkloadPolicy { drops_older: true, ..lab.policy() };
    lab.capture.attach(lab.cgroup.path(), &strict).unwrap();
    let ranges = ["198.51.100.0/24".parse().unwrap(), "2001:db8:51::/64".parse().unwrap()];
    lab.capture.set_bypass(&ranges).unwrap();
    let resolvers = ["192.0.2.53:53".parse().unwrap(), "[2001:db8:7::53]:53".parse().unwrap()];
    lab.capture.set_resolvers(&resolvers).unwrap();
    outside.run(|| {
        crate::lab::ip("address add 192.0.2.53/32 dev lo");
        crate::lab::ip("address add 2001:db8:7::53/128 dev lo nodad");
    });

    // The servers end after those that call them.
    let (stop, closed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let done = Arc::new(AtomicUsize::new(0));
    let mut servers = vec![
        echo_server(lab.listener_v4.try_clone().unwrap(), &closed),
        echo_server(lab.listener_v6.try_clone().unwrap(), &closed),
    ];
    let mut direct: Vec<SocketAddr> = Vec::new();
    for address in [OUTSIDE[0], OUTSIDE[1]]
        .map(|address| format!("{address}:80").parse().unwrap())
        .into_iter()
        .chain(resolvers)
    {
        let listener = outside.run(move || listen(&address.to_string()));
        servers.push(echo_server(listener, &closed));
        direct.push(address);
    }
    let questions: Vec<UdpSocket> = resolvers.iter().map(|at| outside.socket(&at.to_string())).collect();
    for socket in questions {
        let closed = Arc::clone(&closed);
        servers.push(thread::spawn(move || {
            let mut bytes = [0; 64];
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            while !closed.load(SeqCst) {
                if let Ok((length, peer)) = socket.recv_from(&mut bytes) {
                    socket.send_to(&bytes[..length], peer).unwrap();
                }
            }
        }));
    }

    // One process per kind of traffic, one connection after the other, and some that stay.
    let mut load = Vec::new();
    let mut spawn = |mut work: Box<dyn FnMut() + Send>| {
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        load.push(thread::spawn(move || {
            while !stop.load(SeqCst) {
                work();
                done.fetch_add(1, SeqCst);
            }
        }));
    };
    let captured = ["203.0.113.7:80", "[2001:db8:7::7]:443"].map(|text| text.parse().unwrap());
    for at in direct.into_iter().chain(captured) {
        let mut short = lab.inside();
        spawn(Box::new(move || assert_eq!(short.connect(&at.to_string()), format!("ok {at}"))));
        let mut long = lab.inside();
        assert_eq!(long.run(&format!("keep connect {at}")), format!("ok {at}"));
        spawn(Box::new(move || assert_eq!(long.run("talk hello"), "ok hello")));
    }
    for at in resolvers {
        let mut asking = lab.inside();
        spawn(Box::new(move || assert_eq!(asking.run(&format!("ask question {at}")), "ok question")));
    }
    let mut quic = lab.inside();
    spawn(Box::new(move || {
        assert_eq!(quic.run("send no 203.0.113.7:443"), errno(Errno::ECONNREFUSED));
        assert_eq!(quic.run("datagram [2001:db8:7::7]:443"), "ok [2001:db8:7::7]:443");
    }));
    for address in INSIDE {
        let mut server = lab.inside();
        let at = server.run(&format!("keep listener {address}:0"));
        let at: SocketAddr = at.strip_prefix("ok ").unwrap().parse().unwrap();
        let (calls, called) = std::sync::mpsc::sync_channel::<()>(1);
        // Callers from outside live in a thread there.
        servers.push(outside.start(move || {
            while called.recv().is_ok() {
                let mut bytes = Vec::new();
                TcpStream::connect(at).expect("connected").read_to_end(&mut bytes).expect("answered");
                assert_eq!(bytes.len(), 20_000);
            }
        }));
        spawn(Box::new(move || {
            calls.send(()).expect("a caller");
            assert_eq!(server.run("serve 20000"), "ok done");
        }));
    }

    let permitted = Direct::new(&ranges, &resolvers);
    let rules = Rules { direct: &permitted, direct_ever: &permitted, first: false, end_older: false };
    let subject =
        Subject { workload: WORKLOAD, cgroup: lab.cgroup.path().to_owned(), namespaces: vec![None] };
    let (until, mut looks) = (Instant::now() + LOAD, 0);
    while Instant::now() < until {
        let found = examine(&lab.capture, &subject, &rules).expect("its sockets are listed");
        assert!(found.escaped.is_empty(), "{:?}", found.escaped);
        assert!(found.older.is_empty(), "{:?}", found.older);
        looks += 1;
    }
    stop.store(true, SeqCst);
    for thread in load {
        thread.join().expect("everything was answered");
    }
    closed.store(true, SeqCst);
    for thread in servers {
        thread.join().expect("every server was called");
    }
    assert!(looks > 20 && done.load(SeqCst) > 200, "{looks} looks at {} rounds of load", done.load(SeqCst));
    for name in
        ["dropped_older_connection", "passed_older_connection", "dropped_tcp_open", "dropped_captured"]
    {
        assert_eq!(lab.count(name), 0, "{name}");
    }
}
