//! A request of rtnetlink(7), and its acknowledgement: what devices are made and changed with. Called by `devices`.
//!
//! By hand, since one message at a time is all that is needed. Layouts: `include/uapi/linux/{netlink,rtnetlink}.h`.

use std::io;

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use super::PATIENCE;

const HEADER: usize = 16;
const ACKNOWLEDGED: u16 = 2;
/// Please do, and say whether it worked.
const FLAGS: u16 = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;

/// A socket for requests about the network namespace in which it was made.
pub(super) fn socket() -> io::Result<Socket> {
    let socket =
        Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(libc::NETLINK_ROUTE)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// The header of requests about a device (struct ifinfomsg): family, type, index, flags, and which flags to change.
pub(super) fn link(index: u32, up: bool) -> Vec<u8> {
    let up = if up { libc::IFF_UP.cast_unsigned() } else { 0 };
    [0, index, up, up].into_iter().flat_map(u32::to_ne_bytes).collect()
}

/// A request to change a device, and to bring it up.
pub(super) fn change(index: u32) -> Request {
    Request::new(libc::RTM_NEWLINK, 0, &link(index, true))
}

/// A message under construction.
pub(super) struct Request(Vec<u8>);

impl Request {
    /// `kind` is `RTM_…`, `flags` are those of the kind, `family` is the header that the kind has.
    pub(super) fn new(kind: u16, flags: libc::c_int, family: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(FLAGS | flags as u16).to_ne_bytes());
        bytes.extend(family);
        Self(bytes)
    }

    /// Adds an attribute.
    pub(super) fn with(self, kind: u16, value: &[u8]) -> Self {
        self.nest(kind, |mut inside| {
            inside.0.extend(value);
            inside
        })
    }

    /// Adds an attribute made of attributes.
    pub(super) fn nest(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        let start = self.0.len();
        self.0.extend([0, 0]);
        self.0.extend(kind.to_ne_bytes());
        let mut whole = inside(self);
        let length = (whole.0.len() - start) as u16;
        whole.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        whole.0.resize(whole.0.len().next_multiple_of(4), 0);
        whole
    }

    /// Sends it, and waits for the kernel's word.
    pub(super) fn send(mut self, socket: &Socket) -> io::Result<()> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        socket.send(&self.0)?;
        let mut answer = [0; 4096];
        let length = io::Read::read(&mut &*socket, &mut answer)?;
        outcome(&answer[..length])
    }
}

/// An acknowledgement is an error message with the number 0.
fn outcome(answer: &[u8]) -> io::Result<()> {
    let unexpected = || io::Error::new(io::ErrorKind::InvalidData, "no acknowledgement");
    let kind = answer.get(4..6).ok_or_else(unexpected)?;
    let number = answer.get(HEADER..HEADER + 4).ok_or_else(unexpected)?;
    match (
        u16::from_ne_bytes([kind[0], kind[1]]),
        i32::from_ne_bytes([number[0], number[1], number[2], number[3]]),
    ) {
        (ACKNOWLEDGED, 0) => Ok(()),
        (ACKNOWLEDGED, number) => Err(io::Error::from_raw_os_error(-number)),
        _ => Err(unexpected()),
    }
}

#[cfg(test)]
mod tests {
    use nix::libc;

    use super::{Request, outcome};

    #[test]
    fn attributes_are_nested_and_padded() {
        let request = Request::new(16, 0, &[9; 4]).nest(5, |inside| inside.with(7, &[1, 2, 3]).with(8, &[]));
        let body = &request.0[super::HEADER..];
        let word = |at: usize| u16::from_ne_bytes([body[at], body[at + 1]]);
        assert_eq!(body[..4], [9; 4]);
        assert_eq!((word(4), word(6)), (16, 5), "the nest: its header, 8 bytes and 4 bytes");
        assert_eq!((word(8), word(10), &body[12..16]), (7, 7, &[1, 2, 3, 0][..]));
        assert_eq!((word(16), word(18), body.len()), (4, 8, 20));
    }

    #[test]
    fn refusals_are_errors() {
        let mut answer = vec![0; 20];
        answer[4..6].copy_from_slice(&2_u16.to_ne_bytes());
        outcome(&answer).unwrap();
        answer[16..20].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
        assert_eq!(outcome(&answer).unwrap_err().raw_os_error(), Some(libc::EPERM));
        outcome(&answer[..10]).unwrap_err();
    }
}
