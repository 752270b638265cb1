//! Sockets that were made outside the workload: inherited from before enrolment, passed in over a Unix socket, or taken from
//! another process. The kernel runs the programs of the cgroup in which a socket was made, so the workload's own do not see
//! these.

use std::{
    io::Read as _,
    io::{self, IoSlice, IoSliceMut},
    mem,
    net::SocketAddr,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    ptr, thread,
};

use nix::{
    libc,
    sys::socket::{getsockopt, sockopt::PeerCredentials},
};
use socket2::{Domain, Socket, Type};

use super::{
    PATIENCE, local, tcp,
    udp::sent,
    vector::{Attempt, Expected::Blocked, Probe, Vector, attempt},
};

pub(super) const VECTORS: &[Vector] = &[
    Vector { name: "tcp socket from before enrolment", expected: Blocked, attempt: inherited },
    Vector { name: "tcp socket passed in (SCM_RIGHTS)", expected: Blocked, attempt: passed_stream },
    Vector { name: "udp socket passed in (SCM_RIGHTS)", expected: Blocked, attempt: passed_datagram },
    Vector { name: "tcp socket taken (pidfd_getfd)", expected: Blocked, attempt: taken },
];

/// What a helper gives to each caller.
const HANDED_OUT: [Type; 2] = [Type::STREAM, Type::DGRAM];

fn inherited(probe: &Probe<'_>) -> Attempt {
    let Some(fd) = probe.context.inherited else { return Attempt::not_available("no --inherited socket") };
    // SAFETY: fcntl(2) on a number; an error says that it is no descriptor.
    let copy = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
    if copy < 0 {
        return Attempt::not_available(format_args!("descriptor {fd}: {}", io::Error::last_os_error()));
    }
    // SAFETY: the kernel made it for us.
    connect(probe, unsafe { Socket::from_raw_fd(copy) })
}

fn passed_stream(probe: &Probe<'_>) -> Attempt {
    match receive(probe) {
        Ok(Given { passed: [stream, _], .. }) => connect(probe, stream),
        Err(attempt) => attempt,
    }
}

fn passed_datagram(probe: &Probe<'_>) -> Attempt {
    let target = match probe.target() {
        Ok(target) => SocketAddr::from(target),
        Err(attempt) => return attempt,
    };
    match receive(probe) {
        Ok(Given { passed: [_, datagram], .. }) => {
            sent(datagram.send_to(probe.token.as_bytes(), &target.into()))
        }
        Err(attempt) => attempt,
    }
}

/// Without being given: by who may trace the other process (CAP_SYS_PTRACE, or the same user).
fn taken(probe: &Probe<'_>) -> Attempt {
    attempt(|| {
        let given = receive(probe)?;
        let take = || -> io::Result<OwnedFd> {
            let helper = getsockopt(&given.stream, PeerCredentials)?.pid();
            // SAFETY: plain numbers.
            let process = new(unsafe { libc::syscall(libc::SYS_pidfd_open, helper, 0) })?;
            // SAFETY: plain numbers.
            new(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), given.kept, 0) })
        };
        let taken = take().map_err(|error| Attempt::not_available(format_args!("the helper's: {error}")))?;
        Ok(connect(probe, taken.into()))
    })
}

/// A descriptor that a system call has made.
fn new(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(result).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: the kernel made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn connect(probe: &Probe<'_>, socket: Socket) -> Attempt {
    let target = match probe.target() {
        Ok(target) => target.into(),
        Err(attempt) => return attempt,
    };
    match local::prepare(&socket, Domain::IPV4) {
        Ok(port) => tcp::connected(socket, port, probe, target, Socket::connect),
        Err(error) => Attempt::not_available(format_args!("not an unbound IPv4 socket: {error}")),
    }
}

/// What came from a helper.
struct Given {
    passed: [Socket; 2],
    /// Number of a third socket, which it kept.
    kept: RawFd,
    /// It keeps that until this is closed.
    stream: UnixStream,
}

fn receive(probe: &Probe<'_>) -> Result<Given, Attempt> {
    let Some(helper) = &probe.context.helper else { return Err(Attempt::not_available("no --helper")) };
    let take = || {
        let stream = UnixStream::connect(helper)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (passed, kept) = take_descriptors(&stream)?;
        Ok(Given { passed, kept, stream })
    };
    take().map_err(|error: io::Error| {
        Attempt::not_available(format_args!("helper {}: {error}", helper.display()))
    })
}

/// The helper: gives every caller new, unconnected sockets of its own cgroup, until the process ends.
pub fn hand_out(at: &Path, ready: impl FnOnce()) -> io::Result<()> {
    let listener = UnixListener::bind(at)?;
    ready();
    loop {
        let (stream, _) = listener.accept()?;
        // A caller that went away is its own loss.
        thread::spawn(move || drop(serve(&stream)));
    }
}

fn serve(stream: &UnixStream) -> io::Result<()> {
    let sockets =
        [Socket::new(Domain::IPV4, HANDED_OUT[0], None)?, Socket::new(Domain::IPV4, HANDED_OUT[1], None)?];
    let kept = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    give_descriptors(stream, &sockets, kept.as_raw_fd())?;
    // The caller says nothing; what ends this is that it closes, or dawdles.
    stream.set_read_timeout(Some(PATIENCE * 4))?;
    let mut stream = stream;
    stream.read(&mut [0]).map(drop)
}

/// Room for one control message with two descriptors, aligned as its header has to be (cmsg(3)).
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    descriptors: [RawFd; 2],
}

fn give_descriptors(stream: &UnixStream, sockets: &[Socket; 2], kept: RawFd) -> io::Result<()> {
    // SAFETY: all-zero is a valid value of these plain structures.
    let (mut control, mut message): (Control, libc::msghdr) = unsafe { (mem::zeroed(), mem::zeroed()) };
    control.header.cmsg_len = size_of::<Control>() as _;
    control.header.cmsg_level = libc::SOL_SOCKET;
    control.header.cmsg_type = libc::SCM_RIGHTS;
    control.descriptors = sockets.each_ref().map(std::os::fd::AsRawFd::as_raw_fd);
    let number = kept.to_ne_bytes();
    let mut data = [IoSlice::new(&number)];
    message.msg_iov = data.as_mut_ptr().cast();
    message.msg_iovlen = 1;
    message.msg_control = ptr::from_mut(&mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    // SAFETY: everything that the message points to lives during the call, with its true length.
    let sent = unsafe { libc::sendmsg(stream.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    if sent == 4 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn take_descriptors(stream: &UnixStream) -> io::Result<([Socket; 2], RawFd)> {
    // SAFETY: all-zero is a valid value of these plain structures.
    let (mut control, mut message): (Control, libc::msghdr) = unsafe { (mem::zeroed(), mem::zeroed()) };
    let mut number = [0; 4];
    let mut data = [IoSliceMut::new(&mut number)];
    message.msg_iov = data.as_mut_ptr().cast();
    message.msg_iovlen = 1;
    message.msg_control = ptr::from_mut(&mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    // SAFETY: everything that the message points to lives during the call, with its true length.
    let received = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    if received < 0 {
        return Err(io::Error::last_os_error());
    }
    // Its type depends on the C library.
    let mut whole = control.header;
    whole.cmsg_len = size_of::<Control>() as _;
    if control.header.cmsg_type != libc::SCM_RIGHTS || control.header.cmsg_len != whole.cmsg_len {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it did not hand out two sockets"));
    }
    // SAFETY: the kernel made both for us.
    let passed = control.descriptors.map(|fd| unsafe { Socket::from(OwnedFd::from_raw_fd(fd)) });
    Ok((passed, RawFd::from_ne_bytes(number)))
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, os::unix::net::UnixStream};

    use socket2::{Domain, Socket, Type};

    use super::{give_descriptors, take_descriptors};

    #[test]
    fn sockets_are_passed() {
        let (here, there) = UnixStream::pair().unwrap();
        let sockets = [Type::STREAM, Type::DGRAM].map(|kind| Socket::new(Domain::IPV4, kind, None).unwrap());
        sockets[1].bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        give_descriptors(&here, &sockets, 77).unwrap();
        let (passed, kept) = take_descriptors(&there).unwrap();
        assert_eq!(kept, 77);
        let address = |socket: &Socket| socket.local_addr().unwrap().as_socket();
        assert_eq!(address(&passed[1]), address(&sockets[1]));
        assert_eq!(passed[0].r#type().unwrap(), Type::STREAM);
        drop(here);
        assert!(take_descriptors(&there).is_err(), "a helper that went away hands out nothing");
    }
}
