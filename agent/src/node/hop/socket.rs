//! Makes a socket that belongs to a workload: to its cgroup and its network namespace, as if one of its processes had made it.
//!
//! A socket belongs to the cgroup of the process that makes it, so a process is made there for it (`CLONE_INTO_CGROUP`,
//! Linux 5.7), for microseconds. It shares our descriptors, puts the socket where we have kept a place, and ends.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    libc,
    sys::wait::{Id, WaitPidFlag, WaitStatus, waitid},
};
use socket2::Socket;

use crate::node::netns::{self, Namespace};

/// `CLONE_INTO_CGROUP`; does not fit the type that the C library has for flags.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// How long the process may live: longer only if its cgroup is frozen or starved of CPU.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many cgroups are tried below one that takes no processes itself.
const CANDIDATES: usize = 16;

/// What must be free under a memory limit, so that the few pages of the process harm nobody.
const MEMORY: u64 = 1 << 20;

/// Why there is no socket.
#[derive(Debug)]
pub(super) enum Error {
    /// The workload has no room for a process now, or is just ending.
    NoRoom(String),
    /// It should have been possible.
    Io(io::Error),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Makes a TCP socket, not blocking.
pub(super) fn in_cgroup(cgroup: &Path, namespace: Option<&Namespace>, v4: bool) -> Result<Socket, Error> {
    let family = if v4 { libc::AF_INET } else { libc::AF_INET6 };
    let mut why = Error::NoRoom("it has no cgroup that takes processes".to_owned());
    for candidate in candidates(cgroup) {
        if let Some(full) = no_room(&candidate) {
            why = Error::NoRoom(full);
            continue;
        }
        // It may just have gone.
        let Ok(directory) = File::open(&candidate) else { continue };
        match netns::inside(namespace, || make(&directory, family)) {
            Ok(socket) => return Ok(socket),
            Err(e) => match e.raw_os_error() {
                // Processes are below it only; or it is for threads only; or it is gone.
                Some(libc::EBUSY | libc::EOPNOTSUPP | libc::ENOENT | libc::ENODEV) => {}
                Some(libc::EAGAIN) => why = Error::NoRoom("its pids.max is reached".to_owned()),
                _ => return Err(e.into()),
            },
        }
    }
    Err(why)
}

/// The cgroup and those below it, nearest first.
fn candidates(cgroup: &Path) -> Vec<PathBuf> {
    let mut found = vec![cgroup.to_owned()];
    let mut next = 0;
    while next < found.len() && found.len() < CANDIDATES {
        let below = fs::read_dir(&found[next]).into_iter().flatten().flatten();
        let directories = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let room = CANDIDATES - found.len();
        found.extend(directories.map(|entry| entry.path()).take(room).collect::<Vec<_>>());
        next += 1;
    }
    found
}

/// Why no process should be made in this cgroup now.
fn no_room(cgroup: &Path) -> Option<String> {
    let read = |name: &str| fs::read_to_string(cgroup.join(name)).unwrap_or_default();
    let events = read("cgroup.events");
    if events.lines().any(|line| line == "frozen 1") {
        return Some("it is frozen".to_owned());
    }
    // Nobody is there (yet, or any more): a process of ours would be taken for the workload's.
    if !events.lines().any(|line| line == "populated 1") {
        return Some("nothing runs in it".to_owned());
    }
    let number = |name: &str| read(name).trim().parse::<u64>().ok();
    match (number("memory.current"), number("memory.max")) {
        (Some(used), Some(limit)) if used + MEMORY > limit => Some("its memory.max is reached".to_owned()),
        _ => None,
    }
}

/// Makes the socket, in the calling thread's network namespace.
fn make(cgroup: &File, family: libc::c_int) -> io::Result<Socket> {
    // The place for it.
    let place = OwnedFd::from(File::open("/dev/null")?);
    let mut pidfd: libc::c_int = -1;
    // SAFETY: an all-zero clone_args asks for a plain fork; every field is a number.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = CLONE_INTO_CGROUP | (libc::CLONE_FILES | libc::CLONE_PIDFD) as u64;
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.cgroup = cgroup.as_raw_fd().cast_unsigned().into();
    // SAFETY: like fork(2) in a process with threads: the child has a copy of our memory, and makes nothing but system
    // calls. It shares the descriptors, which is what it is for.
    match unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of_val(&arguments)) } {
        -1 => return Err(io::Error::last_os_error()),
        0 => child(family, place.as_raw_fd()),
        _ => {}
    }
    // SAFETY: the kernel has just made it for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let in_time = ends(&pidfd)?;
    if !in_time {
        // SAFETY: plain numbers; a killed process ends also where its cgroup is frozen.
        unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, 0_usize, 0);
        }
    }
    // No signal tells of its end, so it counts as a "clone child".
    match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED | WaitPidFlag::__WALL)? {
        WaitStatus::Exited(_, 0) => Ok(Socket::from(place)),
        WaitStatus::Exited(_, errno) => Err(io::Error::from_raw_os_error(errno)),
        // As if there had been no room: the next check tries again.
        _ => Err(io::Error::from_raw_os_error(libc::EAGAIN)),
    }
}

/// The process in the workload's cgroup: system calls only, and nothing of ours is touched but the place for the socket.
fn child(family: libc::c_int, place: libc::c_int) -> ! {
    // SAFETY: plain numbers.
    unsafe {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let socket = libc::syscall(libc::SYS_socket, family, kind, libc::IPPROTO_TCP);
        let placed =
            if socket < 0 { socket } else { libc::syscall(libc::SYS_dup3, socket, place, libc::O_CLOEXEC) };
        let status = if placed < 0 { *libc::__errno_location() } else { 0 };
        if socket >= 0 {
            libc::syscall(libc::SYS_close, socket);
        }
        libc::_exit(status)
    }
}

/// Waits for the end of a process; false: it takes too long.
fn ends(pidfd: &OwnedFd) -> io::Result<bool> {
    let mut wanted = libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: one pollfd, which lives for the call.
        match unsafe { libc::poll(&raw mut wanted, 1, PATIENCE.as_millis() as libc::c_int) } {
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            ready => return Ok(ready > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_below_are_candidates_and_not_too_many() {
        let root = tempfile::tempdir().unwrap();
        for number in 0..2 * CANDIDATES {
            fs::create_dir_all(root.path().join(format!("{number}/below"))).unwrap();
        }
        fs::write(root.path().join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        let found = candidates(root.path());
        assert_eq!((&found[0], found.len()), (&root.path().to_owned(), CANDIDATES));
        assert_eq!(candidates(&root.path().join("0")).len(), 2);
        assert_eq!(candidates(&root.path().join("none")).len(), 1);
    }

    #[test]
    fn no_process_where_it_would_harm_or_hang() {
        let cgroup = tempfile::tempdir().unwrap();
        let given = |name: &str, text: &str| fs::write(cgroup.path().join(name), text).unwrap();
        given("cgroup.events", "populated 0\nfrozen 0\n");
        assert!(no_room(cgroup.path()).is_some_and(|why| why.contains("nothing runs")));
        given("cgroup.events", "populated 1\nfrozen 1\n");
        assert!(no_room(cgroup.path()).is_some_and(|why| why.contains("frozen")));
        given("cgroup.events", "populated 1\nfrozen 0\n");
        assert_eq!(no_room(cgroup.path()), None);
        given("memory.current", "4194304\n");
        given("memory.max", "max\n");
        assert_eq!(no_room(cgroup.path()), None);
        given("memory.max", "4194304\n");
        assert!(no_room(cgroup.path()).is_some_and(|why| why.contains("memory.max")));
    }
}
