//! sock_diag(7) in the network namespace of the calling thread: which TCP and UDP sockets there are, and the end of one.
//!
//! Called by `examine`, `foreign` and `connections`, inside the namespace they ask about. Judges nothing. The kernel lists sockets bucket by
//! bucket without holding them still: one that begins or ends meanwhile may be missing.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
            sockopt::ReceiveTimeout,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

use super::message::{Answer, Family, Protocol, Question, Socket, State, answers};

/// The kernel answers while it is asked; this is for one that does not.
const PATIENCE_SECONDS: i64 = 5;
/// More than the kernel puts into one datagram of a list (32 KiB).
const BUFFER: usize = 64 * 1024;

/// The sockets of `protocol` that processes have and that were made in one of `cgroups`; with none named, in any. `storage` is the socket storage that
/// [`Socket::marked`] tells of.
pub fn list(protocol: Protocol, cgroups: &[u64], storage: Option<BorrowedFd<'_>>) -> io::Result<Vec<Socket>> {
    let storage = storage.map(|fd| fd.as_raw_fd());
    let mut found = ask_both(|family| Question { family, protocol, states: &State::HELD, cgroups, storage })?;
    if !cgroups.is_empty() {
        let wanted: HashSet<u64> = cgroups.iter().copied().collect();
        found.retain(|socket| wanted.contains(&socket.cgroup));
    }
    Ok(found)
}

/// All sockets of `protocol`, also those that no process has yet, or any more.
pub(super) fn all(protocol: Protocol) -> io::Result<Vec<Socket>> {
    ask_both(|family| Question { family, protocol, states: &State::ALL, cgroups: &[], storage: None })
}

/// Asks about both families.
fn ask_both<'a>(question: impl Fn(Family) -> Question<'a>) -> io::Result<Vec<Socket>> {
    let mut found = Vec::new();
    for family in [Family::V4, Family::V6] {
        let question = question(family);
        ask(&question.bytes(), question.protocol, |answer| {
            if let Answer::Socket(socket) = answer {
                found.push(socket);
            }
        })?;
    }
    Ok(found)
}

/// Ends a socket where it is: who waits for it gets ECONNABORTED, the other side of a connection is told by a reset. `false`: it is
/// gone already.
pub fn destroy(socket: &Socket) -> io::Result<bool> {
    match ask(&socket.destroy(), socket.protocol, |_| {}) {
        Ok(()) => Ok(true),
        // Gone, or another one has its addresses.
        Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ESTALE)) => {
            Ok(false)
        }
        Err(error) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "this kernel cannot end the sockets of others (CONFIG_INET_DIAG_DESTROY)",
        )),
        Err(error) => Err(error),
    }
}

/// Asks one question, and reads to the end of the answer.
fn ask(question: &[u8], protocol: Protocol, mut each: impl FnMut(Answer)) -> io::Result<()> {
    let channel = open()?;
    send(channel.as_raw_fd(), question, MsgFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = match recv(channel.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
            Err(Errno::EINTR) => continue,
            received => received?,
        };
        let datagram =
            buffer.get(..length).ok_or_else(|| io::Error::other("an answer longer than expected"))?;
        for answer in answers(protocol, datagram).map_err(io::Error::other)? {
            match answer {
                Answer::Done | Answer::Errno(0) => return Ok(()),
                Answer::Errno(errno) => return Err(io::Error::from_raw_os_error(errno)),
                socket @ Answer::Socket(_) => each(socket),
            }
        }
    }
}

fn open() -> io::Result<OwnedFd> {
    let channel =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)
            .map_err(|errno| {
                io::Error::other(format!("this kernel does not list sockets (CONFIG_INET_DIAG): {errno}"))
            })?;
    setsockopt(&channel, ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
    Ok(channel)
}
