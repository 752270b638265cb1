//! What a socket of a workload is: captured, permitted, an answer, older than the enrolment, or escaped. Called by `examine`;
//! pure.

#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;

use super::message::{Socket, State};
use crate::datapath::Standing;

/// Destinations that workloads may reach without the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Direct {
    ranges: Vec<IpNet>,
    resolvers: HashSet<SocketAddr>,
}

impl Direct {
    /// Bypassed ranges, and DNS resolvers at their ports.
    pub fn new(ranges: &[IpNet], resolvers: &[SocketAddr]) -> Self {
        // As in the kernel: a range written v4-mapped is one of IPv4, and none of IPv6 covers IPv4.
        let ranges = ranges.iter().map(|range| match range {
            IpNet::V6(net) if net.prefix_len() >= 96 => net
                .addr()
                .to_ipv4_mapped()
                .and_then(|address| IpNet::new(address.into(), net.prefix_len() - 96).ok())
                .unwrap_or(*range),
            range => *range,
        });
        let resolvers = resolvers.iter().map(|at| SocketAddr::new(at.ip().to_canonical(), at.port()));
        Self { ranges: ranges.collect(), resolvers: resolvers.collect() }
    }

    /// What either permits.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.ranges.extend(
            other.ranges.iter().filter(|range| !self.ranges.contains(range)).copied().collect::<Vec<_>>(),
        );
        self.resolvers.extend(&other.resolvers);
        self
    }

    pub(super) fn permits(&self, destination: SocketAddr) -> bool {
        self.resolvers.contains(&destination)
            || self.ranges.iter().any(|range| range.contains(&destination.ip()))
    }
}

/// What is known of a workload besides its sockets.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// What it may reach directly now.
    pub direct: &'a Direct,
    /// What it could reach directly at any time.
    pub direct_ever: &'a Direct,
    /// It has not been looked at since it was enrolled: what it has open and nobody marked is older.
    pub first: bool,
    /// What is older may not go on (any more).
    pub end_older: bool,
}

/// What a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing that goes out, or it may.
    Regular,
    /// A connection that came in and that no program saw begin.
    FromOutside,
    /// A connection that goes out and is older than the enrolment, or than a change that took its permission.
    Older,
    /// A connection that was ended already, and is still there.
    Ended,
    /// A connection that is open to the outside though neither captured nor permitted.
    Escaped,
}

/// Where a workload takes connections.
#[derive(Debug, Default)]
pub(super) struct Listening(HashSet<(u16, Option<IpAddr>)>);

impl Listening {
    pub(super) fn of(sockets: &[Socket]) -> Self {
        let listening = sockets.iter().filter(|socket| socket.state == State::Listen).map(|socket| {
            let address = Some(socket.local.ip()).filter(|address| !address.is_unspecified());
            (socket.local.port(), address)
        });
        Self(listening.collect())
    }

    /// Whether a connection at this address was probably accepted there: its port listens, and nothing else tells.
    pub(super) fn at(&self, local: SocketAddr) -> bool {
        self.0.contains(&(local.port(), None)) || self.0.contains(&(local.port(), Some(local.ip())))
    }
}

/// Judges one socket. `standing` is what was said of it before.
pub(super) fn judge(
    socket: &Socket,
    standing: Option<Standing>,
    rules: &Rules<'_>,
    listening: &Listening,
) -> Verdict {
    // A connection that is just being opened can only be an older one: the hooks refuse or capture the others, and what they
    // missed is judged when it is open.
    let goes_out = socket.state.was_established() || (socket.state == State::SynSent && rules.first);
    if !goes_out || socket.marked || socket.remote.ip().is_loopback() || rules.direct.permits(socket.remote) {
        return Verdict::Regular;
    }
    match standing {
        Some(Standing::FromOutside) => Verdict::Regular,
        Some(Standing::Kept) => Verdict::Older,
        Some(Standing::Ended) => Verdict::Ended,
        None if socket.state.was_established() && listening.at(socket.local) => Verdict::FromOutside,
        None if rules.first || rules.direct_ever.permits(socket.remote) => Verdict::Older,
        None => Verdict::Escaped,
    }
}
