//! What one address may take of the CA's network port, so that no pod can take it from the others: connections at a time, and
//! failed attempts to say who it is.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Connections at a time, of everybody. An exchange takes milliseconds.
const CONNECTIONS: usize = 512;
/// Connections of one address at a time. An agent has up to 8, and there are two while one takes over.
const CONNECTIONS_OF_ONE: usize = 32;
/// Callers that are refused are asked about no more in this time ...
const WINDOW: Duration = Duration::from_secs(10);
/// ... after so many refusals.
const FAILURES: u32 = 10;

#[derive(Debug)]
struct Peer {
    connections: usize,
    failures: u32,
    since: Instant,
}

/// Who is connected, and who failed lately.
#[derive(Debug, Default)]
pub(super) struct Limits {
    peers: Mutex<HashMap<IpAddr, Peer>>,
}

/// The right to one connection.
#[derive(Debug)]
pub(super) struct Permit {
    limits: Arc<Limits>,
    peer: IpAddr,
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(peer) = self.limits.peers.lock().get_mut(&self.peer) {
            peer.connections -= 1;
        }
    }
}

impl Limits {
    /// One more connection of `peer`, if it may have one.
    pub(super) fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Permit> {
        let now = Instant::now();
        let mut peers = self.peers.lock();
        peers.retain(|_, peer| peer.connections > 0 || now.duration_since(peer.since) < WINDOW);
        if peers.values().map(|peer| peer.connections).sum::<usize>() >= CONNECTIONS {
            return None;
        }
        let entry = peers.entry(peer).or_insert(Peer { connections: 0, failures: 0, since: now });
        if entry.connections >= CONNECTIONS_OF_ONE {
            return None;
        }
        entry.connections += 1;
        Some(Permit { limits: Arc::clone(self), peer })
    }

    /// Whether `peer` has failed so often lately that it is not asked about.
    pub(super) fn is_shut_out(&self, peer: IpAddr) -> bool {
        let peers = self.peers.lock();
        peers.get(&peer).is_some_and(|peer| peer.failures >= FAILURES && peer.since.elapsed() < WINDOW)
    }

    /// `peer` could not say who it is.
    pub(super) fn failed(&self, peer: IpAddr) {
        if let Some(peer) = self.peers.lock().get_mut(&peer) {
            if peer.since.elapsed() >= WINDOW {
                (peer.failures, peer.since) = (0, Instant::now());
            }
            peer.failures += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, sync::Arc};

    use super::{CONNECTIONS, CONNECTIONS_OF_ONE, FAILURES, Limits};

    fn address(last: u16) -> IpAddr {
        IpAddr::from([10, 0, (last >> 8) as u8, last as u8])
    }

    #[test]
    fn one_address_cannot_take_all_connections() {
        let limits = Arc::new(Limits::default());
        let mut held: Vec<_> = (0..CONNECTIONS_OF_ONE).map(|_| limits.admit(address(1)).unwrap()).collect();
        assert!(limits.admit(address(1)).is_none());
        assert!(limits.admit(address(2)).is_some());
        held.pop();
        assert!(limits.admit(address(1)).is_some());
    }

    #[test]
    fn there_is_an_end_to_connections() {
        let limits = Arc::new(Limits::default());
        let held: Vec<_> = (0..2000).filter_map(|last| limits.admit(address(last))).collect();
        assert_eq!(held.len(), CONNECTIONS);
    }

    #[test]
    fn who_fails_often_is_shut_out_and_others_are_not() {
        let limits = Arc::new(Limits::default());
        let _held = (limits.admit(address(1)), limits.admit(address(2)));
        for _ in 0..FAILURES {
            assert!(!limits.is_shut_out(address(1)));
            limits.failed(address(1));
        }
        assert!(limits.is_shut_out(address(1)));
        assert!(!limits.is_shut_out(address(2)));
    }
}
