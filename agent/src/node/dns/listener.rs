//! The DNS listeners of one workload in one network namespace: loopback sockets inside it, UDP and TCP, with consecutive ports
//! in the order of the resolvers' numbers. The port says which resolver was asked.
//!
//! Bound by `node::presence`, the same ports in every namespace; served by `serve`.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener, UdpSocket as StdSocket},
};

use agent_common::names::DNS_LISTENERS;
use nix::libc;
use tokio::net::{TcpListener, UdpSocket};

use crate::{
    datapath::{DnsListeners, Numbered},
    node::{
        listener::listen,
        netns::{self, Namespace},
        port_block,
    },
};

/// The sockets that stand for one resolver.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) resolver: SocketAddr,
    pub(super) udp: UdpSocket,
    pub(super) tcp: TcpListener,
}

/// The listeners of one workload in one network namespace.
#[derive(Debug)]
pub(in crate::node) struct Listeners {
    pub(super) all: Vec<Listener>,
    /// First ports, those of a family that is not here too, if it has any elsewhere.
    pub(in crate::node) ports: DnsListeners,
}

impl Listeners {
    /// Binds them inside `namespace`, or in the agent's: at these ports, or at any where there are none yet. Where it has no
    /// IPv6, resolvers of IPv6 have none, and are refused.
    pub(in crate::node) fn bind(
        namespace: Option<&Namespace>,
        resolvers: &Numbered,
        ports: DnsListeners,
    ) -> io::Result<Self> {
        let [v4, v6] = netns::inside(namespace, || {
            let v4 = row(Ipv4Addr::LOCALHOST.into(), &resolvers.v4, ports.v4)?;
            let v6 = match row(Ipv6Addr::LOCALHOST.into(), &resolvers.v6, ports.v6) {
                Err(e) if matches!(e.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)) => {
                    Vec::new()
                }
                bound => bound?,
            };
            Ok([v4, v6])
        })?;
        let ports = DnsListeners { v4: first(&v4)?.unwrap_or(ports.v4), v6: first(&v6)?.unwrap_or(ports.v6) };
        let resolvers = resolvers.v4.iter().zip(v4).chain(resolvers.v6.iter().zip(v6));
        let all = resolvers.map(|(resolver, (udp, tcp))| {
            let (udp, tcp) = (UdpSocket::from_std(udp)?, TcpListener::from_std(tcp)?);
            Ok(Listener { resolver: *resolver, udp, tcp })
        });
        Ok(Self { all: all.collect::<io::Result<_>>()?, ports })
    }
}

type Pair = (StdSocket, StdListener);

fn first(row: &[Pair]) -> io::Result<Option<u16>> {
    row.first().map(|(udp, _)| Ok(udp.local_addr()?.port())).transpose()
}

/// Sockets at an address for as many resolvers as can be captured, from the port `fixed`, or from any if it is 0.
fn row(ip: IpAddr, resolvers: &[SocketAddr], fixed: u16) -> io::Result<Vec<Pair>> {
    let count = resolvers.len().min(DNS_LISTENERS.into()) as u8;
    if count == 0 {
        return Ok(Vec::new());
    }
    let any = (fixed == 0).then(|| port_block::bases(port_block::ephemeral(), count, rand::random()));
    let fixed = (fixed != 0).then_some(fixed);
    for base in fixed.into_iter().chain(any.into_iter().flatten()) {
        match (0..u16::from(count)).map(|index| pair(SocketAddr::new(ip, base + index))).collect() {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            row => return row,
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "no port of loopback is free for its DNS listeners"))
}

fn pair(at: SocketAddr) -> io::Result<Pair> {
    let udp = StdSocket::bind(at)?;
    udp.set_nonblocking(true)?;
    Ok((udp, listen(at)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_namespace_gets_the_same_ports_or_none() {
        let resolvers = ["192.0.2.53:53", "192.0.2.54:53"].map(|text| text.parse().unwrap());
        let resolvers = Numbered::new(&resolvers);
        let first = Listeners::bind(None, &resolvers, DnsListeners::default()).unwrap();
        let ports = first.ports;
        assert!(ports.v4 != 0 && ports.v6 == 0, "{ports:?}");
        for (index, listener) in (0..).zip(&first.all) {
            let at = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.v4 + index));
            let bound = (listener.udp.local_addr().unwrap(), listener.tcp.local_addr().unwrap());
            assert_eq!((bound, listener.resolver), ((at, at), resolvers.v4[usize::from(index)]));
        }
        // In this namespace they are taken, as they may be in another one.
        let taken = Listeners::bind(None, &resolvers, ports).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert_eq!(Listeners::bind(None, &resolvers, ports).unwrap().ports, ports);
    }
}
