//! Sockets that a process of a workload has, but that were made in another cgroup: handed in (SCM_RIGHTS, inherited), or opened
//! before the process was moved. No program of the workload sees them. Called by `watch`, and by tests. Blocks.
//!
//! A TCP socket that is not connected yet is not in the kernel's list, and is found when it is.

use std::{collections::HashMap, io};

use super::{
    diag,
    examine::{Cgroups, Subject},
    holders::{self, Holder},
    judge::{Direct, Listening},
    message::{Protocol, Socket, State},
};

/// A socket that is not the workload's own.
#[derive(Clone, Debug)]
pub struct Foreign {
    /// The socket.
    pub socket: Socket,
    /// Who has it.
    pub holder: Holder,
    /// It was ended.
    pub ended: bool,
}

/// Looks for them, in the workload's network namespaces and in the caller's, and ends those that it finds if `end`.
pub fn foreign(subject: &Subject, direct: &Direct, end: bool) -> io::Result<Vec<Foreign>> {
    let cgroups = Cgroups::below(&subject.cgroup)?;
    let held = holders::sockets(&cgroups.directories);
    if held.is_empty() {
        return Ok(Vec::new());
    }
    let look = || here(&held, &cgroups, direct, end);
    let mut found = look()?;
    for namespace in subject.namespaces.iter().flatten() {
        found.extend(namespace.inside(look)?);
    }
    Ok(found)
}

/// Those of the calling thread's network namespace.
fn here(
    held: &HashMap<u32, Holder>,
    cgroups: &Cgroups,
    direct: &Direct,
    end: bool,
) -> io::Result<Vec<Foreign>> {
    let tcp = diag::list(Protocol::Tcp, &[], None)?;
    let listening = Listening::of(&tcp);
    let mut found = Vec::new();
    for socket in tcp.into_iter().chain(diag::list(Protocol::Udp, &[], None)?) {
        let Some(holder) = held.get(&socket.inode) else { continue };
        if cgroups.ids.contains(&socket.cgroup) || !can_send(&socket, direct, &listening) {
            continue;
        }
        let ended = end && diag::destroy(&socket)?;
        found.push(Foreign { socket, holder: holder.clone(), ended });
    }
    Ok(found)
}

/// Whether something could leave by it that nobody outside has asked for, and that is not permitted.
fn can_send(socket: &Socket, direct: &Direct, listening: &Listening) -> bool {
    let connected_out = !socket.remote.ip().is_loopback() && !direct.permits(socket.remote);
    match (socket.protocol, socket.state) {
        (_, State::Listen) => false,
        (Protocol::Tcp, _) => connected_out && !listening.at(socket.local),
        (Protocol::Udp, State::Close) => !socket.local.ip().is_loopback(),
        (Protocol::Udp, _) => connected_out,
    }
}
