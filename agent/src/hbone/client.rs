//! The agent's end: a pool of tunnel connections per (certificate, gateway).
//!
//! `pool` chooses and shares connections, `connection` makes one and keeps it going.

mod connection;
mod pool;

use std::{future::Future, io, net::SocketAddr, pin::Pin, sync::Arc};

use tokio::net::TcpStream;

pub(super) use connection::StreamPermit;

use super::{headers::Connect, tunnel::Tunnel};
use crate::{mesh::SpiffeId, tls::certificate::WorkloadCertificate};

/// Opens the TCP connections under tunnels; the node agent's opens them in the workload's network namespace.
pub trait Dial: Send + Sync {
    /// Connects to the gateway.
    fn dial(&self, gateway: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send + '_>>;
}

/// A gateway: where it is, and who it must prove to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Gateway {
    /// Address of its HBONE port.
    pub address: SocketAddr,
    /// Its identity.
    pub identity: SpiffeId,
}

/// Why no tunnel could be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No TCP connection.
    #[error("egress gateway {0} cannot be reached: {1}")]
    Dial(SocketAddr, #[source] io::Error),
    /// The TLS handshake failed, or took too long.
    #[error("TLS handshake with egress gateway {0} failed: {1}")]
    Tls(SocketAddr, #[source] io::Error),
    /// HTTP/2 broke, or took too long.
    #[error("tunnel to egress gateway {0} failed: {1}")]
    Http2(SocketAddr, #[source] h2::Error),
    /// The gateway answered with another status than 200.
    #[error("egress gateway {gateway} refused the tunnel with status {status}: {detail}")]
    Refused {
        /// The gateway.
        gateway: SocketAddr,
        /// HTTP status.
        status: u16,
        /// The `egret-reason` header, or empty.
        detail: String,
    },
    /// It took too long.
    #[error("egress gateway {0} did not answer in time")]
    Timeout(SocketAddr),
}

/// Tunnel connections of one workload identity in one network namespace. Connections are shared by all its tunnels, and
/// only by tunnels that were opened with the very same certificate to the very same gateway.
pub struct Pool {
    inner: Arc<pool::Inner>,
}

impl Pool {
    /// An empty pool.
    pub fn new(dial: Arc<dyn Dial>) -> Self {
        Self { inner: Arc::new(pool::Inner::new(dial)) }
    }

    /// Opens a tunnel, over a pooled connection where one made with this certificate has room.
    pub async fn open(
        &self,
        certificate: &Arc<WorkloadCertificate>,
        gateway: &Gateway,
        connect: &Connect,
    ) -> Result<Tunnel, Error> {
        self.inner.open(certificate, gateway, connect).await
    }
}
