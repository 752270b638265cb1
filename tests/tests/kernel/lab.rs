//! One test's world: namespaces, a bpffs, a cgroup, listeners, and applications inside and outside the cgroup.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use egret::datapath::{Bpffs, Capture, WorkloadPolicy};
pub(crate) use egret_tests::application::{Application, errno};
use egret_tests::{bpf, cgroup::Cgroup, privileges};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::{
        socket::{setsockopt, sockopt::ReceiveTimeout},
        time::{TimeVal, TimeValLike as _},
    },
};

pub(crate) const WORKLOAD: u32 = 7;
/// Addresses of this machine that are not loopback: whoever is not captured reaches them.
pub(crate) const OUTSIDE_V4: &str = "192.0.2.1";
pub(crate) const OUTSIDE_V6: &str = "2001:db8::1";

pub(crate) struct Lab {
    pub(crate) capture: Capture,
    pub(crate) cgroup: Cgroup,
    pub(crate) listener_v4: TcpListener,
    pub(crate) listener_v6: TcpListener,
    pub(crate) pins: PathBuf,
    // Last: the mount goes when everything above is gone.
    pub(crate) mount: Mount,
}

/// A bpffs of the test's own.
pub(crate) struct Mount {
    bpffs: Option<Bpffs>,
    directory: tempfile::TempDir,
}

impl Drop for Mount {
    fn drop(&mut self) {
        egret::datapath::cleanup(&self.directory.path().join("egret")).expect("pins removed");
        if self.bpffs.take().expect("only taken here").unmount().is_err() {
            // A child that another test is just starting may hold our descriptors until it has become its program.
            umount2(self.directory.path(), MntFlags::MNT_DETACH).expect("unmounted");
        }
    }
}

impl Lab {
    /// None: not possible on this machine, and allowed to be left out.
    pub(crate) fn new(test: &str) -> Option<Self> {
        if !privileges::kernel_or_skip(test) {
            return None;
        }
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("namespaces");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
        ip("link set lo up");
        ip(&format!("address add {OUTSIDE_V4}/32 dev lo"));
        ip(&format!("address add {OUTSIDE_V6}/128 dev lo nodad"));

        let directory = tempfile::tempdir().expect("directory");
        let bpffs = Bpffs::ensure(directory.path()).expect("bpffs");
        assert!(bpffs.mounted_here());
        let pins = directory.path().join("egret");
        Some(Self {
            capture: Capture::load(&pins).expect("the kernel programs load"),
            cgroup: Cgroup::new().expect("cgroup"),
            listener_v4: listen("127.0.0.1:0"),
            listener_v6: listen("[::1]:0"),
            pins,
            mount: Mount { bpffs: Some(bpffs), directory },
        })
    }

    /// The policy that sends everything to the two listeners.
    pub(crate) fn policy(&self) -> WorkloadPolicy {
        WorkloadPolicy {
            workload: WORKLOAD,
            listener_v4: port(&self.listener_v4),
            listener_v6: port(&self.listener_v6),
            ..WorkloadPolicy::default()
        }
    }

    /// Where links are pinned.
    pub(crate) fn links(&self) -> PathBuf {
        self.pins.join(bpf::LAYOUT).join("links")
    }

    /// Where maps are pinned.
    pub(crate) fn maps(&self) -> PathBuf {
        self.pins.join(bpf::LAYOUT).join("maps")
    }

    /// Attaches with [`Lab::policy`].
    pub(crate) fn enrol(&self) {
        self.capture.attach(self.cgroup.path(), &self.policy()).expect("attached");
    }

    /// An application in the cgroup.
    pub(crate) fn inside(&self) -> Application {
        Application::start(Some(&self.cgroup))
    }

    /// Accepts at the listener for `v4`, and takes the original destination.
    pub(crate) fn take(&self, v4: bool) -> (TcpStream, Option<SocketAddr>) {
        let listener = if v4 { &self.listener_v4 } else { &self.listener_v6 };
        let (stream, peer) = listener.accept().expect("a connection at the listener");
        (
            stream,
            self.capture
                .take_original_destination(WORKLOAD, peer, port(listener))
                .map(|taken| taken.destination),
        )
    }

    /// The counters whose names begin so and that are not 0.
    pub(crate) fn counters_like(&self, start: &str) -> Vec<(&'static str, u64)> {
        let mut counters = self.capture.counters().expect("counters");
        counters.retain(|(name, count)| name.starts_with(start) && *count != 0);
        counters
    }

    /// Waits until a counter has reached `count`.
    pub(crate) fn wait_for_count(&self, name: &str, count: u64) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.count(name) < count {
            let counters = self.counters_like("");
            assert!(Instant::now() < deadline, "{name} does not reach {count}: {counters:?}");
            std::thread::yield_now();
        }
    }

    pub(crate) fn count(&self, name: &str) -> u64 {
        let counters = self.capture.counters().expect("counters");
        counters.iter().find(|(counter, _)| *counter == name).expect("a counter of that name").1
    }
}

/// A listener whose `accept()` gives up instead of hanging the test.
pub(crate) fn listen(address: &str) -> TcpListener {
    let listener = TcpListener::bind(address).expect("listener");
    setsockopt(&listener, ReceiveTimeout, &TimeVal::seconds(10)).expect("timeout");
    listener
}

pub(crate) fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().expect("address").port()
}

/// Asserts that nobody has connected.
pub(crate) fn assert_idle(listener: &TcpListener) {
    listener.set_nonblocking(true).expect("non-blocking");
    let error = listener.accept().expect_err("nobody connected");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    listener.set_nonblocking(false).expect("blocking");
}

/// Waits until the kernel has forgotten the client's side of the only connection to `listener` but for its TIME_WAIT.
pub(crate) fn wait_for_time_wait(listener: &TcpListener) {
    // Remote port, and the timer column, which says 03 for TIME_WAIT whatever the state column says.
    let remote = format!(":{:04X}", port(listener));
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let table = std::fs::read_to_string("/proc/thread-self/net/tcp").expect("sockets");
        let found = table.lines().skip(1).any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields[2].ends_with(&remote) && fields[5].starts_with("03:")
        });
        if found {
            return;
        }
        assert!(Instant::now() < deadline, "the client's socket is not closed:\n{table}");
        std::thread::yield_now();
    }
}

/// Runs `ip` in this thread's network namespace.
pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {arguments}");
}
