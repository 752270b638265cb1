//! Questions to the kernel about network devices (rtnetlink(7)), asked in the network namespace of the calling thread. Called
//! by `node::lock`; judges nothing.

use std::{
    fs::File,
    io,
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily as RouteFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    nsid::{NsidAttribute, NsidMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    libc,
    sys::{
        socket::{
            AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, setsockopt, socket,
            sockopt::ReceiveTimeout,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

/// Groups of changes (`RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV6_IFADDR`).
const CHANGES: u32 = 1 | 0x10 | 0x100;
/// The kernel answers at once; a lost answer must not hold up the agent.
const PATIENCE_SECONDS: i64 = 5;

/// A network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) loopback: bool,
    /// `veth`, `ipvlan`, …; none: hardware.
    pub(super) kind: Option<String>,
    /// What it is joined to, or stands on.
    pub(super) other: Option<u32>,
    /// The network namespace of that, by its number in this one; none: this one.
    pub(super) other_namespace: Option<i32>,
    /// The bridge, or the like, that it is a port of.
    pub(super) master: Option<u32>,
}

/// The devices here.
pub(super) fn links() -> io::Result<Vec<Link>> {
    let answers = ask(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)?;
    Ok(answers.into_iter().filter_map(link_of).collect())
}

/// One device; none: there is no such device.
pub(super) fn link(index: u32) -> io::Result<Option<Link>> {
    let mut question = LinkMessage::default();
    question.header.index = index;
    match ask(RouteNetlinkMessage::GetLink(question), 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        answers => Ok(answers?.into_iter().find_map(link_of)),
    }
}

/// The number that a network namespace has in this one; none: no device here has anything to do with it.
pub(super) fn number_of(namespace: &File) -> io::Result<Option<i32>> {
    let mut question = NsidMessage::default();
    question.attributes.push(NsidAttribute::Fd(namespace.as_raw_fd().cast_unsigned()));
    let answers = ask(RouteNetlinkMessage::GetNsId(question), 0)?;
    Ok(answers.into_iter().find_map(|answer| {
        let RouteNetlinkMessage::NewNsId(message) = answer else { return None };
        message.attributes.into_iter().find_map(|attribute| match attribute {
            NsidAttribute::Id(number) => u32::try_from(number).ok().map(u32::cast_signed),
            _ => None,
        })
    }))
}

/// The device by which an address is reached from here; none: by none.
pub(super) fn route(to: IpAddr) -> io::Result<Option<u32>> {
    let mut question = RouteMessage::default();
    (question.header.address_family, question.header.destination_prefix_length) = match to {
        IpAddr::V4(_) => (RouteFamily::Inet, 32),
        IpAddr::V6(_) => (RouteFamily::Inet6, 128),
    };
    question.attributes.push(RouteAttribute::Destination(RouteAddress::from(to)));
    let answers = match ask(RouteNetlinkMessage::GetRoute(question), 0) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => {
            return Ok(None);
        }
        answers => answers?,
    };
    Ok(answers.into_iter().find_map(|answer| {
        let RouteNetlinkMessage::NewRoute(message) = answer else { return None };
        message.attributes.into_iter().find_map(|attribute| match attribute {
            RouteAttribute::Oif(device) => Some(device),
            _ => None,
        })
    }))
}

/// A socket that becomes readable when devices or addresses here change.
pub(super) fn changes() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, CHANGES))?;
    Ok(socket)
}

fn link_of(answer: RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = answer else { return None };
    let mut link = Link {
        index: message.header.index,
        loopback: message.header.flags.contains(LinkFlags::Loopback),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Link(index) => link.other = Some(index),
            LinkAttribute::LinkNetNsId(number) => link.other_namespace = Some(number),
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some(link)
}

/// Asks, and collects the answers.
fn ask(question: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE_SECONDS))?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(question));
    message.header.flags = NLM_F_REQUEST | flags;
    message.header.sequence_number = 1;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answers = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let answer =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            // Messages are aligned to 4 bytes.
            let length = (answer.header.length as usize).next_multiple_of(4);
            match answer.payload {
                NetlinkPayload::Done(_) => return Ok(answers),
                NetlinkPayload::Error(error) => {
                    return if error.code.is_none() { Ok(answers) } else { Err(error.to_io()) };
                }
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                _ => {}
            }
            if flags & NLM_F_DUMP == 0 {
                return Ok(answers);
            }
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}
