//! Network namespaces of workloads: making an isolated one, doing something inside one, letting it go.
//!
//! `node::listener` binds inside them, `node::dial` makes sockets there; `cli::exec` moves its command into one. Which ones a
//! workload is in is the business of `node::presence`.

use std::{
    fmt,
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::Path,
    thread,
};

use nix::{
    libc,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

/// Makes a network namespace that has nothing but loopback, and keeps it at `at` by a bind mount.
///
/// Nothing leaves such a namespace by itself: a captured connection goes to the listener on its loopback, and there is
/// no other way out.
pub fn create_isolated(at: &Path) -> io::Result<()> {
    File::create(at)?;
    on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        loopback_up()?;
        mount(Some("/proc/thread-self/ns/net"), at, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    })
    .inspect_err(|_| drop(fs::remove_file(at)))
}

/// Lets go of a namespace made by [`create_isolated`]; the kernel frees it when its last process and socket are gone.
pub fn delete(at: &Path) -> io::Result<()> {
    match umount2(at, MntFlags::MNT_DETACH) {
        // Not mounted, or not there: what is left is at most the empty file.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(e) => return Err(e.into()),
    }
    match fs::remove_file(at) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Which network namespace, as the kernel tells them apart: the inode in the file system of namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamespaceId(u64);

impl NamespaceId {
    /// Of the namespace at `at`, which is not opened.
    pub fn of(at: &Path) -> io::Result<Self> {
        Ok(Self(fs::metadata(at)?.ino()))
    }

    /// Of the namespace this process runs in.
    pub fn of_agent() -> io::Result<Self> {
        // The main thread never leaves it.
        Self::of(Path::new("/proc/self/ns/net"))
    }
}

impl fmt::Display for NamespaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "net:[{}]", self.0)
    }
}

/// A network namespace that is held open, which keeps it alive: a process may end and its number be used again, this stays
/// the same namespace. Let go of it when the workload has left.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    id: NamespaceId,
}

impl Namespace {
    /// Opens the namespace at `at`: a bind mount, or `/proc/PID/ns/net`.
    pub fn open(at: &Path) -> io::Result<Self> {
        let file = File::open(at)?;
        let id = NamespaceId(file.metadata()?.ino());
        Ok(Self { file, id })
    }

    /// Which it is.
    pub fn id(&self) -> NamespaceId {
        self.id
    }

    /// Runs `f` inside.
    pub fn inside<T: Send>(&self, f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        on_own_thread(|| {
            setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)?;
            f()
        })
    }
}

/// Runs `f` inside `namespace`, or right here, in the agent's own, when there is none.
pub fn inside<T: Send>(
    namespace: Option<&Namespace>,
    f: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    match namespace {
        Some(namespace) => namespace.inside(f),
        None => f(),
    }
}

/// Moves the calling thread into the namespace at `at`.
pub fn enter(at: &Path) -> io::Result<()> {
    let namespace = File::open(at)?;
    Ok(setns(namespace, CloneFlags::CLONE_NEWNET)?)
}

/// A namespace belongs to a thread; a thread of our own means that no worker of the runtime is ever left in another one.
fn on_own_thread<T: Send>(f: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| scope.spawn(f).join())
        .unwrap_or_else(|_| Err(io::Error::other("the thread inside the network namespace panicked")))
}

/// `ip link set lo up` (netdevice(7)).
fn loopback_up() -> io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    // SAFETY: an all-zero ifreq is a valid value; every field is plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives for the call.
    let result = unsafe {
        libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&socket), libc::SIOCSIFFLAGS, &raw const request)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
