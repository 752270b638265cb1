//! From which network namespace a workload is carried: the TCP connections under its tunnels (called by `hbone::client`), and
//! the queries that are forwarded for it (called by `node::dns`).
//!
//! A workload in a network namespace of its own is carried from there (design D4): the gateway sees its address, and a
//! NetworkPolicy "egress only to the gateway" is one more lock. From the agent's own where that cannot be: the namespace has
//! nothing but loopback, or the destination is on the agent's loopback. Never from another one after a failure: a lock that stands
//! in the way is meant.

use std::{future::Future, io, net::SocketAddr, pin::Pin, sync::Arc};

use socket2::{Domain, Socket, Type};
use tokio::{
    net::{TcpSocket, TcpStream},
    task,
};

use super::{netns::Namespace, routes};
use crate::hbone::client::Dial;

/// Dials for a workload, from one of the namespaces it is in.
#[derive(Debug)]
pub(super) struct NamespaceDial {
    /// Absent: the agent's own.
    pub(super) namespace: Option<Arc<Namespace>>,
}

impl Dial for NamespaceDial {
    fn dial(&self, gateway: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send + '_>> {
        Box::pin(async move {
            let stream = connect(self.namespace.as_ref(), gateway).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })
    }
}

/// Opens a connection for a workload in `namespace`, or in the agent's.
pub(super) async fn connect(
    namespace: Option<&Arc<Namespace>>,
    destination: SocketAddr,
) -> io::Result<TcpStream> {
    let socket = socket(namespace, destination, Type::STREAM).await?;
    TcpSocket::from_std_stream(socket.into()).connect(destination).await
}

/// A socket for a workload in `namespace`, or in the agent's, that does not wait.
pub(super) async fn socket(
    namespace: Option<&Arc<Namespace>>,
    destination: SocketAddr,
    kind: Type,
) -> io::Result<Socket> {
    let make = move || {
        let socket = Socket::new(Domain::for_address(destination), kind, None)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    if let Some(namespace) = namespace.filter(|_| !destination.ip().is_loopback()) {
        let namespace = Arc::clone(namespace);
        // It belongs to the namespace, wherever it is connected; none is made where no link leads out.
        let made =
            task::spawn_blocking(move || namespace.inside(|| routes::has_link()?.then(make).transpose()));
        if let Some(socket) = made.await.map_err(io::Error::other)?? {
            return Ok(socket);
        }
    }
    make()
}
