//! The agent's end: a pool of tunnel connections per (certificate, gateway), over the gateways there are.
//!
//! `gateways` knows them, `choice` picks one, `pool` shares connections and tries another gateway when one fails, `connection`
//! makes a connection and keeps it going.

mod choice;
mod connection;
mod gateways;
mod pool;

use std::{future::Future, io, net::SocketAddr, pin::Pin, sync::Arc};

use tokio::net::TcpStream;

pub(super) use connection::StreamPermit;
pub use gateways::{GatewayState, Gateways};

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
    /// There is none.
    #[error("no egress gateway is ready")]
    NoGateway,
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

    /// Opens a tunnel, over a pooled connection where one made with this certificate has room. A gateway that cannot be reached, or
    /// does not answer in time, is left for the next: until the request is answered, not a byte of the tunnel has been sent.
    pub async fn open(
        &self,
        certificate: &Arc<WorkloadCertificate>,
        gateways: &Arc<Gateways>,
        connect: &Connect,
    ) -> Result<Tunnel, Error> {
        self.inner.open(certificate, gateways, connect).await
    }
}
