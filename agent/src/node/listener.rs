//! The in-workload listener: loopback sockets inside the workload's network namespace. The listener that accepted *is*
//! the identity of the caller (design D4).

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::netns::{self, Namespace};

/// Long enough that a burst of connects is not turned away while the agent is busy (`net.core.somaxconn` caps it).
const BACKLOG: i32 = 4096;

/// Port numbers of a workload's listeners, the same in every network namespace it is in: its policy has one pair. 0 is none
/// yet, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ports {
    /// On 127.0.0.1.
    pub(super) v4: u16,
    /// On `::1`.
    pub(super) v6: u16,
}

/// The listening sockets of one workload in one network namespace.
#[derive(Debug)]
pub(super) struct Listeners {
    /// On 127.0.0.1.
    pub(super) v4: TcpListener,
    /// On ::1; absent where the namespace has no IPv6.
    pub(super) v6: Option<TcpListener>,
}

impl Listeners {
    /// Binds these ports inside `namespace`, or in the agent's; ephemeral ones where there is none yet.
    pub(super) fn bind(namespace: Option<&Namespace>, ports: Ports) -> io::Result<Self> {
        netns::inside(namespace, || {
            let v4 = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, ports.v4)))?;
            let v6 = match listen(SocketAddr::from((Ipv6Addr::LOCALHOST, ports.v6))) {
                Ok(listener) => Some(listener),
                // IPv6 is off in this namespace: the workload has none either.
                Err(e)
                    if matches!(
                        e.raw_os_error(),
                        Some(nix::libc::EADDRNOTAVAIL | nix::libc::EAFNOSUPPORT)
                    ) =>
                {
                    None
                }
                Err(e) => return Err(e),
            };
            Ok(Self { v4, v6 })
        })
    }

    /// Their ports; 0 where there is no listener.
    pub(super) fn ports(&self) -> io::Result<Ports> {
        let v6 = self.v6.as_ref().map(TcpListener::local_addr).transpose()?;
        Ok(Ports { v4: self.v4.local_addr()?.port(), v6: v6.map_or(0, |address| address.port()) })
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::{Listeners, Ports};

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
}
