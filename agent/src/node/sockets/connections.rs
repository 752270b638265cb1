//! The TCP connections of a network namespace at the moment when its link is locked: they go on, as they do at the enrolment
//! itself. Called by `node::lock`, inside the namespace.

use std::io;

use super::{
    diag,
    judge::Listening,
    message::{Protocol, Socket, State},
};
use crate::datapath::Connection;

/// The connections that lead out of this thread's network namespace, whoever made them.
pub(in crate::node) fn connections() -> io::Result<Vec<Connection>> {
    Ok(of(&diag::all(Protocol::Tcp)?))
}

/// What is connected, or about to be: no program saw it begin, so its first packet may be on its way. A connection came from outside
/// when somebody listens at its local address.
fn of(sockets: &[Socket]) -> Vec<Connection> {
    let listening = Listening::of(sockets);
    let connected = |socket: &&Socket| {
        !matches!(socket.state, State::Close | State::Listen) && !socket.remote.ip().is_loopback()
    };
    sockets
        .iter()
        .filter(connected)
        .map(|Socket { local, remote, .. }| Connection {
            local: *local,
            peer: *remote,
            accepted: listening.at(*local),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Protocol, Socket, State, of};

    #[test]
    fn connections_that_lead_out() {
        let sockets = [
            ("[::]:80", "[::]:0", State::Listen),
            ("192.0.2.10:80", "203.0.113.7:4000", State::Established),
            ("192.0.2.10:4242", "203.0.113.7:443", State::CloseWait),
            ("192.0.2.10:4243", "203.0.113.7:443", State::SynSent),
            ("127.0.0.1:4244", "127.0.0.1:80", State::Established),
            ("[2001:db8:1::10]:80", "[2001:db8:7::7]:4001", State::TimeWait),
            ("192.0.2.10:80", "203.0.113.7:4002", State::SynReceived),
        ]
        .map(|(local, remote, state)| {
            Socket::for_test(Protocol::Tcp, state, local.parse().unwrap(), remote.parse().unwrap())
        });
        let found: Vec<(String, String, bool)> = of(&sockets)
            .iter()
            .map(|one| (one.local.to_string(), one.peer.to_string(), one.accepted))
            .collect();
        let expected = [
            ("192.0.2.10:80", "203.0.113.7:4000", true),
            ("192.0.2.10:4242", "203.0.113.7:443", false),
            ("192.0.2.10:4243", "203.0.113.7:443", false),
            ("[2001:db8:1::10]:80", "[2001:db8:7::7]:4001", true),
            ("192.0.2.10:80", "203.0.113.7:4002", true),
        ]
        .map(|(local, peer, accepted)| (local.to_owned(), peer.to_owned(), accepted));
        assert_eq!(found, expected);
    }
}
