//! The in-workload listener: loopback sockets inside the workload's network namespace. The listener that accepted *is*
//! the identity of the caller (design D4).
//!
//! Several consecutive ports per family, over which the connect hook spreads the workload's connections: towards one port the
//! kernel has as many connections as there are ephemeral ports, those in TIME_WAIT included. Which ports those are is in
//! `node::port_block`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use super::{
    netns::{self, Namespace},
    port_block,
};
use crate::net::pacing::unpaced;

/// Long enough that a burst of connects is not turned away while the agent is busy (`net.core.somaxconn` caps it).
const BACKLOG: i32 = 4096;

/// Ports per family, the most first; fewer where the namespace has no block of that size left. With eight, 1,000 connections
/// a second keep 60,000 in TIME_WAIT, 7,500 per port: below the 14,116 even ephemeral ports that the kernel tries first.
/// Past that it looks through all of them for each connection (measured with four: 1 ms instead of 0.06 ms).
const PORTS: [u8; 4] = [8, 4, 2, 1];

/// Largest segment, in bytes. Loopback's own is 64 KiB, of which four fill a receive buffer: in bulk they come one by one, and each
/// wakes somebody (measured: 0.43 CPU-s/GiB with it, 0.27 with this).
const MAX_SEGMENT: u32 = 16_000;

/// Port numbers of a workload's listeners, the same in every network namespace it is in: its policy has one set. 0 is none
/// yet, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ports {
    /// The first on 127.0.0.1.
    pub(super) v4: u16,
    /// The first on `::1`.
    pub(super) v6: u16,
    /// How many each has.
    pub(super) count: u8,
}

impl Ports {
    /// There are not as many as there should be.
    pub(super) fn are_few(self) -> bool {
        self.count < PORTS[0]
    }
}

/// The listening sockets of one workload in one network namespace.
#[derive(Debug)]
pub(super) struct Listeners {
    /// On 127.0.0.1, by port.
    v4: Vec<TcpListener>,
    /// On ::1, as many; none where the namespace has no IPv6.
    v6: Vec<TcpListener>,
}

impl Listeners {
    /// Binds blocks of consecutive ports inside `namespace`, or in the agent's: these, or any where there are none yet.
    pub(super) fn bind(namespace: Option<&Namespace>, ports: Ports) -> io::Result<Self> {
        let counts: &[u8] = if ports.v4 == 0 { &PORTS } else { &[ports.count] };
        netns::inside(namespace, || {
            let range = port_block::ephemeral();
            for &count in counts {
                let block = |ip: IpAddr, fixed| {
                    let any = (fixed == 0).then(|| port_block::bases(range, count, rand::random()));
                    let fixed = (fixed != 0).then_some(fixed);
                    block(ip, count, fixed.into_iter().chain(any.into_iter().flatten()))
                };
                if let Some(v4) = block(Ipv4Addr::LOCALHOST.into(), ports.v4)?
                    && let Some(v6) = block(Ipv6Addr::LOCALHOST.into(), ports.v6)?
                {
                    return Ok(Self { v4, v6 });
                }
            }
            Err(io::Error::new(io::ErrorKind::AddrInUse, "no port of loopback is free for the listener"))
        })
    }

    /// Their ports.
    pub(super) fn ports(&self) -> io::Result<Ports> {
        let first = |listeners: &[TcpListener]| {
            listeners.first().map_or(Ok(0), |first| Ok::<_, io::Error>(first.local_addr()?.port()))
        };
        Ok(Ports { v4: first(&self.v4)?, v6: first(&self.v6)?, count: self.v4.len() as u8 })
    }

    /// All of them.
    pub(super) fn into_all(self) -> impl Iterator<Item = TcpListener> {
        self.v4.into_iter().chain(self.v6)
    }
}

/// Listens on `ports` consecutive ports of `ip`, from the first of `bases` where all are free. None: there is no such block.
/// Empty: the family is not there.
fn block(ip: IpAddr, ports: u8, bases: impl Iterator<Item = u16>) -> io::Result<Option<Vec<TcpListener>>> {
    for base in bases {
        let block: io::Result<Vec<_>> =
            (0..u16::from(ports)).map(|index| listen(SocketAddr::new(ip, base + index))).collect();
        match block {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            // IPv6 is off in this namespace: the workload has none either.
            Err(e)
                if ip.is_ipv6()
                    && matches!(e.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)) =>
            {
                return Ok(Some(Vec::new()));
            }
            block => return block.map(Some),
        }
    }
    Ok(None)
}

/// Listens without waiting in `accept()`.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_mss(MAX_SEGMENT)?;
    unpaced(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_namespace_gets_the_same_ports_or_none() {
        let first = Listeners::bind(None, Ports::default()).unwrap();
        let ports = first.ports().unwrap();
        assert_ne!(ports.v4, 0);
        // In this namespace they are taken, as they may be in another one.
        let taken = Listeners::bind(None, ports).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert_eq!(Listeners::bind(None, ports).unwrap().ports().unwrap(), ports);
    }

    #[test]
    fn a_family_has_consecutive_ports_and_all_of_them_listen() {
        let listeners = Listeners::bind(None, Ports::default()).unwrap();
        let ports = listeners.ports().unwrap();
        assert!(!ports.are_few() && ports.count == PORTS[0], "{listeners:?}");
        let mut bases = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, ports.v4))];
        if ports.v6 != 0 {
            bases.push((Ipv6Addr::LOCALHOST, ports.v6).into());
        }
        let found = listeners.into_all().map(|listener| listener.local_addr().unwrap());
        let expected = bases.into_iter().flat_map(|base| {
            (0..u16::from(ports.count)).map(move |index| SocketAddr::new(base.ip(), base.port() + index))
        });
        assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }

    #[test]
    fn a_block_with_a_port_in_use_is_passed_over() {
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let taken = listener.local_addr().unwrap().port();
        let range = port_block::ephemeral();
        let bases = [taken - 1, taken].into_iter().chain(port_block::bases(range, 4, rand::random()));
        let block = block(Ipv4Addr::LOCALHOST.into(), 4, bases).unwrap().unwrap();
        let ports: Vec<_> = block.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        assert!(!ports.contains(&taken) && ports.len() == 4, "{ports:?}");
    }

    #[test]
    fn without_a_free_block_there_is_none() {
        let taken = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let base = taken.local_addr().unwrap().port() - 1;
        assert!(block(Ipv4Addr::LOCALHOST.into(), 2, [base].into_iter()).unwrap().is_none());
    }
}
