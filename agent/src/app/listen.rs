//! TCP listeners of roles. "All addresses" means those of both families, or of IPv4 where there is no IPv6.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use nix::libc;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

/// Connections that may wait to be accepted: as many as the kernel permits.
const BACKLOG: i32 = 4096;

/// Listens on `address`.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match bind(address) {
        Err(e) if lacks_ipv6(&e) && address.is_ipv6() && address.ip().is_unspecified() => {
            bind((Ipv4Addr::UNSPECIFIED, address.port()).into())
        }
        bound => bound,
    }
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // As `TcpListener::bind` does: connections of a process that ended do not keep the port.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // Whatever net.ipv6.bindv6only says.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::listen;

    #[tokio::test]
    async fn all_addresses_are_those_of_ipv4_too() {
        let listener = listen("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (accepted, dialled) = tokio::join!(listener.accept(), TcpStream::connect(("127.0.0.1", port)));
        dialled.unwrap();
        accepted.unwrap();
    }
}
