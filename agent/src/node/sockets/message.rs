//! The messages of sock_diag(7): questions as bytes, answers as sockets. Called by `diag`; opens nothing.
//!
//! Layouts: `struct nlmsghdr` and `struct nlattr` of `include/uapi/linux/netlink.h`; `struct inet_diag_req_v2`,
//! `inet_diag_msg`, `inet_diag_bc_op` and the numbers of attributes of `include/uapi/linux/inet_diag.h`; `SOCK_DESTROY` and the
//! attributes of socket storage of `include/uapi/linux/sock_diag.h`. Numbers are in the byte order of the machine, addresses and
//! ports in that of the network. No crate that reads these messages knows cgroups, storage or filters.

#[cfg(test)]
mod tests;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::RawFd,
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// Beside its number in the type of an attribute: the attribute holds others.
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;

const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_REQ_SK_BPF_STORAGES: u16 = 2;
const SK_DIAG_BPF_STORAGE_REQ_MAP_FD: u16 = 1;
const INET_DIAG_SK_BPF_STORAGES: u16 = 20;
const INET_DIAG_CGROUP_ID: u16 = 21;
const SK_DIAG_BPF_STORAGE: u16 = 1;

/// Operations of the filter.
const INET_DIAG_BC_JMP: u8 = 1;
const INET_DIAG_BC_CGROUP_COND: u8 = 13;
/// A comparison with one cgroup and the jump after it.
const CONDITION_LENGTH: usize = 16;

/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_msg`.
const SOCKET: usize = 72;
/// `struct inet_diag_sockid`.
const ID: usize = 48;

/// An address family that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Family {
    V4 = 2,
    V6 = 10,
}

/// A protocol that is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// TCP, subflows of MPTCP included.
    Tcp = 6,
    /// UDP.
    Udp = 17,
}

impl Protocol {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// State of a TCP socket (`include/net/tcp_states.h`), as far as it is known here. UDP uses two of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Open. A UDP socket: connected.
    Established = 1,
    /// Being opened by this side.
    SynSent = 2,
    /// Being opened by the other side.
    SynReceived = 3,
    /// This side has closed.
    FinWait1 = 4,
    /// The same, and the other side knows.
    FinWait2 = 5,
    /// Closed, and remembered for late packets. No process has it any more.
    TimeWait = 6,
    /// Not connected, of UDP. (TCP's are not listed by the kernel.)
    Close = 7,
    /// The other side has closed.
    CloseWait = 8,
    /// The other side, then this side has closed.
    LastAck = 9,
    /// Waits for connections.
    Listen = 10,
    /// Both sides have closed at once.
    Closing = 11,
}

impl State {
    /// Of sockets that processes have.
    pub(super) const HELD: [Self; 9] = [
        Self::Established,
        Self::SynSent,
        Self::FinWait1,
        Self::FinWait2,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
    ];
    /// All of them.
    pub(super) const ALL: [Self; 11] = [
        Self::Established,
        Self::SynSent,
        Self::SynReceived,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
    ];

    /// Whether a connection is or has been open.
    pub const fn was_established(self) -> bool {
        !matches!(self, Self::SynSent | Self::SynReceived | Self::Close | Self::Listen)
    }
}

/// One socket, as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its state.
    pub state: State,
    /// Its own address; IPv4 also where an IPv6 socket speaks IPv4.
    pub local: SocketAddr,
    /// The other side's.
    pub remote: SocketAddr,
    /// Its inode, which descriptors of processes show; 0: no process has it any more.
    pub inode: u32,
    /// What the kernel never gives to another socket.
    pub cookie: u64,
    /// The cgroup it was made in.
    pub cgroup: u64,
    /// It has the socket storage that was asked for.
    pub marked: bool,
    pub(super) family: u8,
    pub(super) id: [u8; ID],
}

/// Which sockets, and what of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'a> {
    pub(super) family: Family,
    pub(super) protocol: Protocol,
    pub(super) states: &'a [State],
    /// Made in one of these; none: in any.
    pub(super) cgroups: &'a [u64],
    /// The socket storage of [`Socket::marked`].
    pub(super) storage: Option<RawFd>,
}

impl Question<'_> {
    /// As a message.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let states = self.states.iter().fold(0_u32, |mask, state| mask | 1 << *state as u8);
        let mut body = request(self.family as u8, self.protocol, states, &[0; ID]);
        // What does not fit into the attribute, or is more than the kernel should compare each socket with, is left to the reader.
        if (1..=MAX_CONDITIONS).contains(&self.cgroups.len()) {
            attribute(&mut body, INET_DIAG_REQ_BYTECODE, &filter(self.cgroups));
        }
        if let Some(storage) = self.storage {
            let mut map = Vec::new();
            attribute(&mut map, SK_DIAG_BPF_STORAGE_REQ_MAP_FD, &storage.to_ne_bytes());
            attribute(&mut body, INET_DIAG_REQ_SK_BPF_STORAGES | NLA_F_NESTED, &map);
        }
        message(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, &body)
    }
}

/// Cgroups that the kernel compares with.
const MAX_CONDITIONS: usize = 512;

impl Socket {
    /// One that no kernel has.
    #[cfg(test)]
    pub(super) fn for_test(protocol: Protocol, state: State, local: SocketAddr, remote: SocketAddr) -> Self {
        let family = if local.is_ipv4() { Family::V4 } else { Family::V6 } as u8;
        Self {
            protocol,
            state,
            local,
            remote,
            inode: 0,
            cookie: 1,
            cgroup: 0,
            marked: false,
            family,
            id: [0; ID],
        }
    }

    /// The message that destroys it, and no other.
    pub(super) fn destroy(&self) -> Vec<u8> {
        message(
            SOCK_DESTROY,
            NLM_F_REQUEST | NLM_F_ACK,
            &request(self.family, self.protocol, u32::MAX, &self.id),
        )
    }
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, protocol: Protocol, states: u32, id: &[u8; ID]) -> Vec<u8> {
    let mut bytes = vec![family, protocol as u8, 0, 0];
    bytes.extend(states.to_ne_bytes());
    bytes.extend(id);
    bytes
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // Sequence and sender: one question at a time on a socket of its own.
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend(((4 + value.len()) as u16).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// "Made in one of these cgroups", in the kernel's filter language: each operation says how far to go on if it holds, and if it
/// does not; who comes to the very end is taken, who jumps over it is not.
fn filter(cgroups: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(cgroups.len() * CONDITION_LENGTH);
    for (index, cgroup) in cgroups.iter().enumerate() {
        let after = ((cgroups.len() - index - 1) * CONDITION_LENGTH) as u16;
        // Holds: on to the jump. Does not: over it to the next, or over the end.
        operation(&mut bytes, INET_DIAG_BC_CGROUP_COND, 12, if after == 0 { 20 } else { 16 });
        bytes.extend(cgroup.to_ne_bytes());
        operation(&mut bytes, INET_DIAG_BC_JMP, 4, 4 + after);
    }
    bytes
}

/// `struct inet_diag_bc_op`.
fn operation(to: &mut Vec<u8>, code: u8, yes: u8, no: u16) {
    to.extend([code, yes]);
    to.extend(no.to_ne_bytes());
}

/// What the kernel answers with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Socket(Socket),
    /// The end of a list.
    Done,
    /// An errno; 0 is success.
    Errno(i32),
}

/// An answer that is not built as the kernel builds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an answer of the kernel's that is not understood: {0}")]
pub(super) struct Malformed(&'static str);

/// Reads the messages of one datagram. Sockets in states that are not known are left out.
pub(super) fn answers(protocol: Protocol, mut datagram: &[u8]) -> Result<Vec<Answer>, Malformed> {
    let mut answers = Vec::new();
    while !datagram.is_empty() {
        let length = u32_at(datagram, 0)? as usize;
        let kind = u16_at(datagram, 4)?;
        let body = datagram.get(HEADER..length).ok_or(Malformed("length of a message"))?;
        match kind {
            SOCK_DIAG_BY_FAMILY => answers.extend(socket(protocol, body)?.map(Answer::Socket)),
            // The list ends with an errno, too, where it could not be finished.
            NLMSG_DONE if u32_at(body, 0).unwrap_or(0) == 0 => answers.push(Answer::Done),
            NLMSG_DONE | NLMSG_ERROR => {
                answers.push(Answer::Errno(u32_at(body, 0)?.cast_signed().saturating_neg()));
            }
            _ => {}
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(answers)
}

/// `struct inet_diag_msg` and its attributes.
fn socket(protocol: Protocol, body: &[u8]) -> Result<Option<Socket>, Malformed> {
    let fixed: &[u8; SOCKET] = body.first_chunk().ok_or(Malformed("length of a socket"))?;
    let [family, state, ..] = *fixed;
    let Some(state) = State::ALL.into_iter().find(|known| *known as u8 == state) else { return Ok(None) };
    let mut id = [0; ID];
    id.copy_from_slice(&fixed[4..4 + ID]);
    let mut socket = Socket {
        protocol,
        state,
        local: endpoint(family, &id[4..20], &id[..2])?,
        remote: endpoint(family, &id[20..36], &id[2..4])?,
        inode: u32_at(fixed, 68)?,
        cookie: u64::from(u32_at(&id, 40)?) | u64::from(u32_at(&id, 44)?) << 32,
        cgroup: 0,
        marked: false,
        family,
        id,
    };
    let mut rest = &body[SOCKET..];
    while !rest.is_empty() {
        let (kind, value, after) = split_attribute(rest)?;
        match kind {
            INET_DIAG_CGROUP_ID => {
                let bytes = value.first_chunk().ok_or(Malformed("cgroup of a socket"))?;
                socket.cgroup = u64::from_ne_bytes(*bytes);
            }
            // It holds one entry per storage that was asked for and that the socket has.
            INET_DIAG_SK_BPF_STORAGES if !value.is_empty() => {
                socket.marked = split_attribute(value)?.0 == SK_DIAG_BPF_STORAGE;
            }
            _ => {}
        }
        rest = after;
    }
    Ok(Some(socket))
}

fn split_attribute(bytes: &[u8]) -> Result<(u16, &[u8], &[u8]), Malformed> {
    let length = usize::from(u16_at(bytes, 0)?);
    let kind = u16_at(bytes, 2)? & NLA_TYPE_MASK;
    let value = bytes.get(4..length).ok_or(Malformed("length of an attribute"))?;
    Ok((kind, value, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

fn endpoint(family: u8, address: &[u8], port: &[u8]) -> Result<SocketAddr, Malformed> {
    let bytes: [u8; 16] = address.try_into().map_err(|_| Malformed("an address"))?;
    let ip = match bytes {
        [a, b, c, d, ..] if family == Family::V4 as u8 => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        _ if family == Family::V6 as u8 => Ipv6Addr::from(bytes).to_canonical(),
        _ => return Err(Malformed("an address family")),
    };
    let port = port.try_into().map_err(|_| Malformed("a port"))?;
    Ok(SocketAddr::new(ip, u16::from_be_bytes(port)))
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Malformed> {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map(|bytes| u16::from_ne_bytes(*bytes)).ok_or(Malformed("too short"))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    let bytes = bytes.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map(|bytes| u32::from_ne_bytes(*bytes)).ok_or(Malformed("too short"))
}
