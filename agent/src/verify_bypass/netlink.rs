//! Requests of rtnetlink(7), and their acknowledgement: what devices are made and changed with. Called by `devices`.

use std::io::{self, Read as _};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage},
};
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use super::PATIENCE;

/// A socket for requests about the network namespace in which it was made.
pub(super) fn socket() -> io::Result<Socket> {
    let protocol = Protocol::from(libc::NETLINK_ROUTE);
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(protocol))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Sends a request, with the flags of its kind, and waits for the kernel's word.
pub(super) fn send(mut socket: &Socket, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(request));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes)?;
    let mut answer = [0; 4096];
    let length = socket.read(&mut answer)?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer[..length]);
    match answer.map_err(io::Error::other)?.payload {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
        NetlinkPayload::Error(error) => Err(error.to_io()),
        _ => Err(io::Error::other("no acknowledgement")),
    }
}

/// Changes a device of the calling thread's network namespace, and brings it up.
pub(super) fn change(index: u32, attributes: Vec<LinkAttribute>) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = attributes;
    send(&socket()?, RouteNetlinkMessage::NewLink(message), 0)
}

#[cfg(test)]
mod tests {
    use super::change;

    #[test]
    fn a_refusal_is_an_error() {
        // Nobody has a device of this number.
        let error = change(u32::MAX >> 1, Vec::new()).unwrap_err();
        assert!(error.raw_os_error().is_some(), "{error}");
    }
}
