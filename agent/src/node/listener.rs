//! The in-workload listener: loopback sockets inside the workload's network namespace. The listener that accepted *is*
//! the identity of the caller (design D4).

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    path::Path,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::netns;

/// Long enough that a burst of connects is not turned away while the agent is busy (`net.core.somaxconn` caps it).
const BACKLOG: i32 = 4096;

/// The listening sockets of one workload.
#[derive(Debug)]
pub(super) struct Listeners {
    /// On 127.0.0.1.
    pub(super) v4: TcpListener,
    /// On ::1; absent where the namespace has no IPv6.
    pub(super) v6: Option<TcpListener>,
}

impl Listeners {
    /// Binds ephemeral ports inside `namespace`.
    pub(super) fn bind(namespace: Option<&Path>) -> io::Result<Self> {
        netns::inside(namespace, || {
            let v4 = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
            let v6 = match listen(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))) {
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

    /// Ports on 127.0.0.1 and ::1; 0 where there is no listener.
    pub(super) fn ports(&self) -> io::Result<(u16, u16)> {
        let v6 = self.v6.as_ref().map(TcpListener::local_addr).transpose()?;
        Ok((self.v4.local_addr()?.port(), v6.map_or(0, |address| address.port())))
    }
}

/// Listens without waiting in `accept()`.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
