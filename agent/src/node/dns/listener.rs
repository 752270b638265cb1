//! The DNS listeners of one workload: loopback sockets inside its network namespace, UDP and TCP, with consecutive ports in
//! the order of the resolvers' numbers. The port says which resolver was asked.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    path::Path,
};

use agent_common::names::DNS_LISTENERS;
use nix::libc;

use crate::{
    datapath::{DnsListeners, Numbered},
    node::{listener::listen, netns},
};

/// How often a row of free ports is looked for.
const ATTEMPTS: u32 = 64;

/// The sockets that stand for one resolver.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) resolver: SocketAddr,
    pub(super) udp: UdpSocket,
    pub(super) tcp: TcpListener,
}

/// The listeners of one workload.
#[derive(Debug)]
pub(in crate::node) struct Listeners {
    pub(super) all: Vec<Listener>,
    /// First ports.
    pub(in crate::node) ports: DnsListeners,
}

impl Listeners {
    /// Binds them inside `namespace`. Where it has no IPv6, resolvers of IPv6 have none, and are refused.
    pub(in crate::node) fn bind(namespace: Option<&Path>, resolvers: &Numbered) -> io::Result<Self> {
        netns::inside(namespace, || {
            let mut all = row(Ipv4Addr::LOCALHOST.into(), &resolvers.v4)?;
            let v6 = match row(Ipv6Addr::LOCALHOST.into(), &resolvers.v6) {
                Err(e) if matches!(e.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT)) => {
                    Vec::new()
                }
                bound => bound?,
            };
            let ports = DnsListeners { v4: first(&all)?, v6: first(&v6)? };
            all.extend(v6);
            Ok(Self { all, ports })
        })
    }
}

fn first(row: &[Listener]) -> io::Result<u16> {
    row.first().map_or(Ok(0), |listener| Ok(listener.udp.local_addr()?.port()))
}

/// Listeners at an address for as many resolvers as can be captured.
fn row(address: IpAddr, resolvers: &[SocketAddr]) -> io::Result<Vec<Listener>> {
    let resolvers = &resolvers[..resolvers.len().min(DNS_LISTENERS.into())];
    let mut outcome = Ok(Vec::new());
    for _ in 0..ATTEMPTS {
        outcome = try_row(address, resolvers);
        match &outcome {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            _ => break,
        }
    }
    outcome
}

fn try_row(address: IpAddr, resolvers: &[SocketAddr]) -> io::Result<Vec<Listener>> {
    let mut row: Vec<Listener> = Vec::with_capacity(resolvers.len());
    let mut port = 0_u16;
    for resolver in resolvers {
        let udp = UdpSocket::bind((address, port))?;
        udp.set_nonblocking(true)?;
        let at = udp.local_addr()?;
        row.push(Listener { resolver: *resolver, udp, tcp: listen(at)? });
        // Past the last port there is none: as if it were taken.
        port = at.port().checked_add(1).ok_or(io::ErrorKind::AddrInUse)?;
    }
    Ok(row)
}
