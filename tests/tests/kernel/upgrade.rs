//! Another layout version takes over under load: at no time is a connection not captured.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use egret::datapath::{self, Capture};
use egret_tests::bpf;

use crate::{
    lab::{Lab, OUTSIDE_V4, WORKLOAD, assert_idle, listen, port},
    outside::Outside,
};

/// How often the version changes while the application connects.
const CHANGES: usize = 6;

/// What a listener of an agent saw.
#[derive(Default)]
struct Seen {
    known: AtomicU64,
    unknown: AtomicU64,
}

/// Accepts until `end`, and takes every original destination.
fn serve(
    capture: Arc<Capture>,
    listener: TcpListener,
    seen: Arc<Seen>,
    end: Arc<AtomicBool>,
) -> thread::JoinHandle<()> {
    listener.set_nonblocking(true).expect("non-blocking");
    let at = port(&listener);
    thread::spawn(move || {
        let expected = SocketAddr::from(([203, 0, 113, 7], 80));
        // What waits when the end comes is served, too.
        loop {
            let ends = end.load(Relaxed);
            match listener.accept() {
                Ok((_, peer))
                    if capture
                        .take_original_destination(WORKLOAD, peer, at)
                        .map(|taken| taken.destination)
                        == Some(expected) =>
                {
                    seen.known.fetch_add(1, Relaxed);
                }
                Ok(_) => {
                    seen.unknown.fetch_add(1, Relaxed);
                }
                Err(_) if ends => return,
                Err(_) => thread::yield_now(),
            }
        }
    })
}

#[test]
fn another_layout_version_takes_over_without_a_gap() {
    let Some(lab) = Lab::new("another_layout_version_takes_over_without_a_gap") else { return };
    let outside = Outside::new();
    // Where the connections would arrive.
    let direct = outside.run(|| {
        crate::lab::ip("address add 203.0.113.7/32 dev lo");
        listen("203.0.113.7:80")
    });
    lab.enrol();
    // Of the application, then of the servers: nothing is to be on the way then.
    let (enough, end) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let mut application = lab.inside();
    let connecting = {
        let enough = Arc::clone(&enough);
        thread::spawn(move || {
            let mut connected = 0;
            while !enough.load(Relaxed) {
                let answer = application.connect("203.0.113.7:80");
                // A connection that was captured by the set that has just gone is not known to the other: its peer is shown
                // as it is.
                assert!(answer.starts_with("ok "), "{answer}");
                connected += 1;
            }
            connected
        })
    };
    let seen = Arc::new(Seen::default());
    let serving = |capture: &Arc<Capture>, listener: &TcpListener| {
        let listener = listener.try_clone().unwrap();
        serve(Arc::clone(capture), listener, Arc::clone(&seen), Arc::clone(&end))
    };
    let Lab { capture, cgroup, listener_v4, listener_v6, pins, mount } = lab;
    let mut listeners = vec![listener_v4];
    let mut captures = vec![Arc::new(capture)];
    let mut servers = vec![serving(&captures[0], &listeners[0])];
    for change in 0..CHANGES {
        // As if what runs had been of another version.
        let other = pins.join(format!("v{}", 100 + change));
        fs::rename(pins.join(bpf::LAYOUT), &other).unwrap();
        let successor = Arc::new(Capture::load(&pins).unwrap());
        let listener = listen("127.0.0.1:0");
        servers.push(serving(&successor, &listener));
        let policy = datapath::WorkloadPolicy {
            workload: WORKLOAD,
            listener_v4: port(&listener),
            ..datapath::WorkloadPolicy::default()
        };
        assert_eq!(successor.attach(cgroup.path(), &policy).unwrap(), bpf::WORKLOAD_PROGRAMS);
        assert_eq!(
            fs::read_dir(other.join("links")).unwrap().count(),
            bpf::WORKLOAD_PROGRAMS - 2,
            "the older set captures no more"
        );
        let before = seen.known.load(Relaxed);
        while seen.known.load(Relaxed) < before + 20 {
            assert!(!connecting.is_finished(), "the application gave up");
            thread::yield_now();
        }
        // No connection is under way that the older set had begun.
        assert_eq!(successor.retire_other_versions().unwrap(), 1);
        assert!(!other.exists());
        captures.push(successor);
        listeners.push(listener);
    }
    enough.store(true, Relaxed);
    let connected: u64 = connecting.join().expect("every connect() succeeded");
    end.store(true, Relaxed);
    for server in servers {
        server.join().unwrap();
    }
    assert_eq!(seen.unknown.load(Relaxed), 0, "of {connected} connections");
    assert_eq!(seen.known.load(Relaxed), connected);
    assert_idle(&direct);
    datapath::cleanup(&pins).unwrap();
    assert!(!pins.exists(), "nothing is left");
    drop((cgroup, listener_v6, mount));
}

#[test]
fn a_version_stays_as_long_as_it_refuses_somebody() {
    let Some(lab) = Lab::new("a_version_stays_as_long_as_it_refuses_somebody") else { return };
    lab.enrol();
    let other = lab.pins.join("v100");
    fs::rename(lab.pins.join(bpf::LAYOUT), &other).unwrap();
    let mut application = lab.inside();
    let successor = Capture::load(&lab.pins).unwrap();
    // The workload was not taken over.
    assert_eq!(successor.retire_other_versions().unwrap(), 0);
    assert!(other.exists());
    let direct = listen(&format!("{OUTSIDE_V4}:0"));
    application.connect(&direct.local_addr().unwrap().to_string());
    assert_idle(&direct);

    successor.detach(lab.cgroup.inode().unwrap()).unwrap();
    assert_eq!(successor.retire_other_versions().unwrap(), 1);
    assert!(!other.exists());
}
