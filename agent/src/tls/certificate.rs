//! A workload's certificate and the TLS configurations made from it.

use std::{sync::Arc, time::SystemTime};

use crate::mesh::SpiffeId;

/// Certificate chain, key and trust anchors of one workload. The key lives in memory only.
pub struct WorkloadCertificate {
    identity: SpiffeId,
}

impl WorkloadCertificate {
    /// Whose it is.
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// When it ends.
    pub fn not_after(&self) -> SystemTime {
        unimplemented!()
    }

    /// TLS 1.3 client side of a tunnel (ALPN `h2`): presents this certificate and accepts only `server`.
    pub fn client_config(&self, server: &SpiffeId) -> Arc<rustls::ClientConfig> {
        let _ = server;
        unimplemented!()
    }

    /// TLS 1.3 server side of a tunnel (ALPN `h2`): requires a client certificate of the same trust domain.
    pub fn server_config(&self) -> Arc<rustls::ServerConfig> {
        unimplemented!()
    }
}

/// The identity in the verified certificate of the peer of `connection`.
pub fn peer_identity(connection: &rustls::ServerConnection) -> Option<SpiffeId> {
    let _ = connection;
    unimplemented!()
}
