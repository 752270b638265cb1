//! Opens the TCP connections under tunnels, from the agent's own network namespace.

use std::{future::Future, io, net::SocketAddr, pin::Pin};

use tokio::net::TcpStream;

use crate::hbone::client::Dial;

/// Dials from the namespace the agent runs in.
#[derive(Debug)]
pub(super) struct HostDial;

impl Dial for HostDial {
    fn dial(&self, gateway: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send + '_>> {
        Box::pin(async move {
            let stream = TcpStream::connect(gateway).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })
    }
}
