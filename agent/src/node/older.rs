//! The TCP connections of a network namespace at the moment when its link is locked: they go on, as they do at the enrolment
//! itself. Called by `node::lock`, inside the namespace; the format is proc_net_tcp of the kernel's documentation.

use std::{
    collections::HashSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::datapath::Connection;

const SYN_SENT: u8 = 2;
const CLOSE: u8 = 7;
const LISTEN: u8 = 10;

/// The connections that lead out of this thread's network namespace.
pub(super) fn connections() -> io::Result<Vec<Connection>> {
    let mut sockets = Vec::new();
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        match fs::read_to_string(table) {
            Ok(text) => sockets.extend(text.lines().filter_map(parse)),
            // No IPv6 here.
            Err(e) if e.kind() == io::ErrorKind::NotFound && table.ends_with('6') => {}
            Err(e) => return Err(io::Error::new(e.kind(), format!("{table}: {e}"))),
        }
    }
    Ok(of(&sockets))
}

/// One line of the table: the socket's ends and its state.
#[derive(Clone, Copy)]
struct Line {
    local: SocketAddr,
    peer: SocketAddr,
    state: u8,
}

/// What is connected. A connection came from outside when somebody listens at its local port.
fn of(sockets: &[Line]) -> Vec<Connection> {
    let listening: HashSet<u16> =
        sockets.iter().filter(|line| line.state == LISTEN).map(|line| line.local.port()).collect();
    let connected =
        |line: &&Line| !matches!(line.state, SYN_SENT | CLOSE | LISTEN) && !line.peer.ip().is_loopback();
    sockets
        .iter()
        .filter(connected)
        .map(|Line { local, peer, .. }| Connection {
            local: *local,
            peer: *peer,
            accepted: listening.contains(&local.port()),
        })
        .collect()
}

/// `sl local remote state …`; the first line of the table has titles.
fn parse(line: &str) -> Option<Line> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, peer) = (end(words.next()?)?, end(words.next()?)?);
    Some(Line { local, peer, state: u8::from_str_radix(words.next()?, 16).ok()? })
}

/// `ADDRESS:PORT` in hexadecimal: the address in words of this machine's byte order, the port as a number.
fn end(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let words: Vec<[u8; 4]> = (0..address.len() / 8)
        .map(|word| u32::from_str_radix(address.get(word * 8..word * 8 + 8)?, 16).ok().map(u32::to_ne_bytes))
        .collect::<Option<_>>()?;
    let ip: IpAddr = match words.as_slice() {
        [v4] => Ipv4Addr::from(*v4).into(),
        [_, _, _, _] => Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1
   1: 0A0200C0:0050 077100CB:0FA0 01 00000000:00000000 00:00000000 00000000     0        0 2 1
   2: 0A0200C0:1092 077100CB:01BB 08 00000000:00000000 00:00000000 00000000     0        0 3 1
   3: 0A0200C0:1093 077100CB:01BB 02 00000000:00000000 00:00000000 00000000     0        0 4 1
   4: 0100007F:1094 0100007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 5 1
   5: B80D0120000001000000000010000000:0050 B80D0120000007000000000007000000:0FA1 06 0:0 00:0 0 0 0 6
   6: 0000000000000000FFFF00000A0200C0:0050 0000000000000000FFFF0000077100CB:0FA2 01 0:0 00:0 0 0 0 7
";

    #[test]
    fn connections_that_lead_out() {
        let sockets: Vec<Line> = TABLE.lines().filter_map(parse).collect();
        assert_eq!(sockets.len(), 7);
        let found: Vec<(String, String, bool)> = of(&sockets)
            .iter()
            .map(|one| (one.local.to_string(), one.peer.to_string(), one.accepted))
            .collect();
        let expected = [
            ("192.0.2.10:80", "203.0.113.7:4000", true),
            ("192.0.2.10:4242", "203.0.113.7:443", false),
            ("[2001:db8:1::10]:80", "[2001:db8:7::7]:4001", true),
            ("192.0.2.10:80", "203.0.113.7:4002", true),
        ];
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, (local, peer, accepted)) in found.iter().zip(expected) {
            assert_eq!((found.0.as_str(), found.1.as_str(), found.2), (local, peer, accepted));
        }
    }
}
