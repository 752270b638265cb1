//! The benchmark's world: namespaces, cgroups, listeners, and Egret's programs or netfilter's rule.

use std::{
    fs::File,
    io,
    net::{SocketAddr, SocketAddrV4, TcpListener},
    os::fd::AsRawFd as _,
    process, thread,
};

use anyhow::{Context as _, Result, anyhow};
use egret::datapath::{self, Bpffs, Capture, WorkloadPolicy};
use egret_tests::{bpf, cgroup::Cgroup, process::run};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, CpuSet, sched_setaffinity, setns, unshare},
    sys::socket::{getsockopt, sockopt::OriginalDst},
    unistd::Pid,
};

use crate::measure::{self, Sample};

const WORKLOAD: u32 = 7;
/// The server at the other end of the link, and our own address on it.
const SERVER: &str = "198.51.100.2:80";
const OURS: &str = "198.51.100.1/24";
const THEIRS: &str = "198.51.100.2/24";

/// What is attached where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    None,
    NoneAgain,
    Sibling,
    Enrolled,
    Redirect,
}

impl State {
    pub(crate) const ALL: [Self; 5] =
        [Self::None, Self::NoneAgain, Self::Sibling, Self::Enrolled, Self::Redirect];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NoneAgain => "none again",
            Self::Sibling => "sibling",
            Self::Enrolled => "enrolled",
            Self::Redirect => "redirect",
        }
    }

    /// How many programs are attached to cgroups.
    pub(crate) fn links(self) -> usize {
        match self {
            Self::Sibling | Self::Enrolled => bpf::WORKLOAD_PROGRAMS,
            _ => 0,
        }
    }
}

pub(crate) struct Rig {
    capture: Capture,
    /// Where this process is, and where Egret's programs are.
    outside: Cgroup,
    workload: Cgroup,
    /// On loopback, and at the other end of the link.
    local: TcpListener,
    server: TcpListener,
    /// A namespace with a REDIRECT to a listener of its own, and ours.
    redirecting: File,
    redirected: TcpListener,
    home: File,
    mount: Option<Bpffs>,
    directory: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn new(cpu: usize) -> Result<Self> {
        let mut cpus = CpuSet::new();
        cpus.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &cpus).with_context(|| format!("CPU {cpu}"))?;
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        let home = File::open("/proc/thread-self/ns/net")?;
        let far = namespace()?;
        link(&far)?;
        let redirecting = namespace()?;
        let redirected = inside(&redirecting, || {
            ip("link set lo up")?;
            // Any device will do for the route: the packets turn round before they reach it.
            ip("link add out type veth peer name unused")?;
            ip(&format!("address add {OURS} dev out"))?;
            ip("link set out up")?;
            ip("link set unused up")?;
            let listener = listen("127.0.0.1:0")?;
            let port = listener.local_addr()?.port().to_string();
            run(
                "iptables",
                &[
                    "-t",
                    "nat",
                    "-A",
                    "OUTPUT",
                    "-p",
                    "tcp",
                    "-d",
                    "198.51.100.2",
                    "-j",
                    "REDIRECT",
                    "--to-ports",
                    &port,
                ],
            )
            .context("Debian's package is iptables")?;
            Ok(listener)
        })?;

        let directory = tempfile::tempdir()?;
        let mount = Bpffs::ensure(directory.path())?;
        let capture = Capture::load(&directory.path().join("egret"))?;
        Ok(Self {
            capture,
            outside: Cgroup::new()?,
            workload: Cgroup::new()?,
            local: listen("127.0.0.1:0")?,
            server: inside(&far, || listen(SERVER))?,
            redirecting,
            redirected,
            home,
            mount: Some(mount),
            directory,
        })
    }

    /// Brings the state about.
    pub(crate) fn enter(&self, state: State) -> Result<()> {
        let cgroup = if state == State::Enrolled { &self.workload } else { &self.outside };
        cgroup.add(process::id())?;
        match state {
            State::None | State::NoneAgain => {}
            State::Sibling | State::Enrolled => {
                let policy = WorkloadPolicy {
                    workload: WORKLOAD,
                    listener_v4: self.local.local_addr()?.port(),
                    ..WorkloadPolicy::default()
                };
                self.capture.attach(self.workload.path(), &policy)?;
            }
            State::Redirect => setns(&self.redirecting, CloneFlags::CLONE_NEWNET)?,
        }
        Ok(())
    }

    /// Takes it back.
    pub(crate) fn leave(&self, state: State) -> Result<()> {
        if state == State::Redirect {
            setns(&self.home, CloneFlags::CLONE_NEWNET)?;
        }
        Ok(self.capture.detach(self.workload.inode()?)?)
    }

    /// Measures in the state that is entered.
    pub(crate) fn measure(&self, state: State) -> Result<Sample> {
        let server: SocketAddr = SERVER.parse()?;
        let remote = match state {
            State::Enrolled => measure::tcp(server, &self.local, |stream| {
                let port = self.local.local_addr()?.port();
                let taken = self
                    .capture
                    .take_original_destination(WORKLOAD, stream.peer_addr()?, port)
                    .map(|taken| taken.destination);
                same(taken, server)
            }),
            State::Redirect => measure::tcp(server, &self.redirected, |stream| {
                let at = getsockopt(stream, OriginalDst)?;
                let ip = u32::from_be(at.sin_addr.s_addr).into();
                same(Some(SocketAddrV4::new(ip, u16::from_be(at.sin_port)).into()), server)
            }),
            _ => measure::tcp(server, &self.server, |_| Ok(())),
        };
        let loopback = if state == State::Redirect { &self.redirected } else { &self.local };
        Ok(Sample {
            remote: remote?,
            loopback: measure::tcp(loopback.local_addr()?, loopback, |_| Ok(()))?,
            udp: measure::udp(server)?,
        })
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // What is left shows at the next start; there is nobody to tell here.
        let _ = datapath::cleanup(&self.directory.path().join("egret"));
        let _ = self.mount.take().map(Bpffs::unmount);
        // Out of the cgroup, so that removing it does not end us.
        if let Ok(root) = egret_tests::cgroup::mount_point() {
            let _ = std::fs::write(root.join("cgroup.procs"), process::id().to_string());
        }
    }
}

fn same(found: Option<SocketAddr>, wanted: SocketAddr) -> Result<()> {
    anyhow::ensure!(found == Some(wanted), "original destination {found:?} instead of {wanted}");
    Ok(())
}

/// A network namespace of its own.
fn namespace() -> Result<File> {
    on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(File::open("/proc/thread-self/ns/net")?)
    })
}

/// Joins this thread's namespace to another by a link.
fn link(far: &File) -> Result<()> {
    let path = format!("/proc/{}/fd/{}", process::id(), far.as_raw_fd());
    ip(&format!("link add inner type veth peer name outer netns {path}"))?;
    ip("link set lo up")?;
    ip(&format!("address add {OURS} dev inner"))?;
    ip("link set inner up")?;
    inside(far, || {
        ip("link set lo up")?;
        ip(&format!("address add {THEIRS} dev outer"))?;
        ip("link set outer up")
    })
}

fn ip(arguments: &str) -> Result<()> {
    run("ip", &arguments.split(' ').collect::<Vec<_>>()).map(drop)
}

fn listen(address: &str) -> Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // Everything is there when accept is called; whatever is not must not hang the benchmark.
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn inside<T: Send>(namespace: &File, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_own_thread(|| {
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
        f()
    })
}

fn on_own_thread<T: Send>(f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(f).join()).map_err(|_| anyhow!("a thread panicked"))?
}
