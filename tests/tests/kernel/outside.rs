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
        ip(&format!("link add inner type veth peer name outer netns {}", outside.path()));
        set_up("inner", INSIDE);
        outside.run(|| set_up("outer", OUTSIDE));
        let [v4, v6] = OUTSIDE;
        ip(&format!("route add default via {v4}"));
        ip(&format!("-6 route add default via {}", bare(v6)));
        outside
    }

    /// The network namespace of a process, joined to nothing yet.
    pub(crate) fn of_process(id: u32) -> Self {
        Self { namespace: File::open(format!("/proc/{id}/ns/net")).expect("its namespace") }
    }

    /// Where others find it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
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

/// Gives a device of this thread's namespace its addresses, and brings it up.
pub(crate) fn set_up(device: &str, [v4, v6]: [&str; 2]) {
    ip("link set lo up");
    ip(&format!("address add {v4}/24 dev {device}"));
    ip(&format!("address add {}/64 dev {device} nodad", bare(v6)));
    ip(&format!("link set {device} up"));
}

/// An IPv6 address without its brackets.
fn bare(address: &str) -> &str {
    address.trim_matches(['[', ']'])
}

/// The next datagram as text.
pub(crate) fn receive(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut bytes = [0; 64];
    let (length, peer) = loop {
        match socket.recv_from(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => break received.expect("a datagram"),
        }
    };
    (String::from_utf8_lossy(&bytes[..length]).into_owned(), peer)
}
