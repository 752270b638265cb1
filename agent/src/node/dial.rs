//! Opens the TCP connections under tunnels.
//!
//! A workload in a network namespace of its own is carried from there (design D4): the gateway sees its address, and a
//! NetworkPolicy "egress only to the gateway" is one more lock. From the agent's own where that cannot be: the namespace has
//! nothing but loopback, or the gateway is on the agent's loopback. Never from another one after a failure: a lock that stands in
//! the way is meant.

use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpStream as StdStream},
    pin::Pin,
    sync::Arc,
};

use socket2::{Domain, Protocol, Socket, Type};
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
            let inside = match &self.namespace {
                Some(namespace) if !gateway.ip().is_loopback() => {
                    let namespace = Arc::clone(namespace);
                    let made = task::spawn_blocking(move || socket_inside(&namespace, gateway));
                    made.await.map_err(io::Error::other)??
                }
                _ => None,
            };
            let stream = match inside {
                Some(socket) => socket.connect(gateway).await?,
                None => TcpStream::connect(gateway).await?,
            };
            stream.set_nodelay(true)?;
            Ok(stream)
        })
    }
}

/// A socket that belongs to the namespace, wherever it is connected; nothing where no link leads out.
fn socket_inside(namespace: &Namespace, gateway: SocketAddr) -> io::Result<Option<TcpSocket>> {
    namespace.inside(|| {
        if !routes::has_link()? {
            return Ok(None);
        }
        let socket = Socket::new(Domain::for_address(gateway), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        Ok(Some(TcpSocket::from_std_stream(StdStream::from(socket))))
    })
}
