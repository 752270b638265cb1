//! Sockets that were made outside the workload: inherited from before enrolment, or passed in over a Unix socket. The
//! kernel runs the programs of the cgroup in which a socket was made, so the workload's own do not see these.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem,
    net::SocketAddr,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    ptr,
};

use nix::libc;
use socket2::{Domain, Socket, Type};

use super::{
    PATIENCE, local, tcp,
    udp::sent,
    vector::{Attempt, Expected::Blocked, Probe, Vector},
};

pub(super) const VECTORS: &[Vector] = &[
    Vector { name: "tcp socket from before enrolment", expected: Blocked, attempt: inherited },
    Vector { name: "tcp socket passed in (SCM_RIGHTS)", expected: Blocked, attempt: passed_stream },
    Vector { name: "udp socket passed in (SCM_RIGHTS)", expected: Blocked, attempt: passed_datagram },
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
        Ok([stream, _]) => connect(probe, stream),
        Err(attempt) => attempt,
    }
}

fn passed_datagram(probe: &Probe<'_>) -> Attempt {
    let target = match probe.target() {
        Ok(target) => SocketAddr::from(target),
        Err(attempt) => return attempt,
    };
    match receive(probe) {
        Ok([_, datagram]) => sent(datagram.send_to(probe.token.as_bytes(), &target.into())),
        Err(attempt) => attempt,
    }
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

fn receive(probe: &Probe<'_>) -> Result<[Socket; 2], Attempt> {
    let Some(helper) = &probe.context.helper else { return Err(Attempt::not_available("no --helper")) };
    let take = || {
        let stream = UnixStream::connect(helper)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        take_descriptors(&stream)
    };
    take().map_err(|error| Attempt::not_available(format_args!("helper {}: {error}", helper.display())))
}

/// The helper: gives every caller new, unconnected sockets of its own cgroup, until the process ends.
pub fn hand_out(at: &Path, ready: impl FnOnce()) -> io::Result<()> {
    let listener = UnixListener::bind(at)?;
    ready();
    loop {
        let (stream, _) = listener.accept()?;
        let sockets = [
            Socket::new(Domain::IPV4, HANDED_OUT[0], None)?,
            Socket::new(Domain::IPV4, HANDED_OUT[1], None)?,
        ];
        // A caller that went away is its own loss.
        drop(give_descriptors(&stream, &sockets));
    }
}

/// Room for one control message with two descriptors, aligned as its header has to be (cmsg(3)).
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    descriptors: [RawFd; 2],
}

fn give_descriptors(stream: &UnixStream, sockets: &[Socket; 2]) -> io::Result<()> {
    // SAFETY: all-zero is a valid value of these plain structures.
    let (mut control, mut message): (Control, libc::msghdr) = unsafe { (mem::zeroed(), mem::zeroed()) };
    control.header.cmsg_len = size_of::<Control>() as _;
    control.header.cmsg_level = libc::SOL_SOCKET;
    control.header.cmsg_type = libc::SCM_RIGHTS;
    control.descriptors = sockets.each_ref().map(std::os::fd::AsRawFd::as_raw_fd);
    let mut data = [IoSlice::new(b"x")];
    message.msg_iov = data.as_mut_ptr().cast();
    message.msg_iovlen = 1;
    message.msg_control = ptr::from_mut(&mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    // SAFETY: everything that the message points to lives during the call, with its true length.
    let sent = unsafe { libc::sendmsg(stream.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    if sent == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn take_descriptors(stream: &UnixStream) -> io::Result<[Socket; 2]> {
    // SAFETY: all-zero is a valid value of these plain structures.
    let (mut control, mut message): (Control, libc::msghdr) = unsafe { (mem::zeroed(), mem::zeroed()) };
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
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
    Ok(control.descriptors.map(|fd| unsafe { Socket::from(OwnedFd::from_raw_fd(fd)) }))
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
        give_descriptors(&here, &sockets).unwrap();
        let passed = take_descriptors(&there).unwrap();
        let address = |socket: &Socket| socket.local_addr().unwrap().as_socket();
        assert_eq!(address(&passed[1]), address(&sockets[1]));
        assert_eq!(passed[0].r#type().unwrap(), Type::STREAM);
        drop(here);
        assert!(take_descriptors(&there).is_err(), "a helper that went away hands out nothing");
    }
}
