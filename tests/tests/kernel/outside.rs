//! What is not this machine: a network namespace behind a link, that workloads would reach if nobody stopped them.

use std::{
    fs::File,
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sched::{CloneFlags, setns, unshare};

use crate::lab::ip;

/// Its addresses. All other addresses are routed to it as well.
pub(crate) const OUTSIDE: [&str; 2] = ["198.51.100.2", "[2001:db8:51::2]"];
/// Ours on the link.
pub(crate) const INSIDE: [&str; 2] = ["198.51.100.1", "[2001:db8:51::1]"];

pub(crate) struct Outside {
    namespace: File,
}

impl Outside {
    /// Joined to this thread's network namespace.
    pub(crate) fn new() -> Self {
        let namespace = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("namespace");
            File::open("/proc/thread-self/ns/net").expect("own namespace")
        })
        .join()
        .expect("a namespace");
        let outside = Self { namespace };
        let path = format!("/proc/{}/fd/{}", std::process::id(), outside.namespace.as_raw_fd());
        ip(&format!("link add inner type veth peer name outer netns {path}"));
        for (command, address) in [("inner", INSIDE), ("outer", OUTSIDE)].map(|(device, [v4, v6])| {
            let v6 = v6.trim_matches(['[', ']']);
            (device, [format!("{v4}/24 dev {device}"), format!("{v6}/64 dev {device} nodad")])
        }) {
            let set_up = move || {
                for address in &address {
                    ip(&format!("address add {address}"));
                }
                ip(&format!("link set {command} up"));
                ip("link set lo up");
            };
            if command == "inner" {
                set_up();
            } else {
                outside.run(set_up);
            }
        }
        for [v4, v6] in [OUTSIDE] {
            ip(&format!("route add default via {v4}"));
            ip(&format!("-6 route add default via {}", v6.trim_matches(['[', ']'])));
        }
        outside
    }

    /// Runs `f` there and waits for it.
    pub(crate) fn run<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(f).join().expect("no panic outside")
    }

    /// Runs `f` there.
    pub(crate) fn start<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let namespace = self.namespace.try_clone().expect("descriptor");
        thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("entered");
            f()
        })
    }

    /// A UDP socket there that gives up after a while.
    pub(crate) fn socket(&self, address: &str) -> UdpSocket {
        let address: SocketAddr = address.parse().expect("an address");
        let bind = move || -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind(address)?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            Ok(socket)
        };
        self.run(bind).expect("socket")
    }
}

/// The next datagram as text.
pub(crate) fn receive(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut bytes = [0; 64];
    let (length, peer) = socket.recv_from(&mut bytes).expect("a datagram");
    (String::from_utf8_lossy(&bytes[..length]).into_owned(), peer)
}
