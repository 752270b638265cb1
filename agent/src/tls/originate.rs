//! TLS origination: the client side towards external services, as a DestinationRule asks for it.

use std::sync::Arc;

use rustls_pki_types::ServerName;

use crate::{mesh::Snapshot, reason::Refusal, route::TlsOrigination};

/// Makes and caches client configurations. One per gateway.
pub struct Originator {}

/// A client configuration together with the name it sends as SNI.
#[derive(Clone)]
pub struct Client {
    /// For `tokio_rustls::TlsConnector`.
    pub config: Arc<rustls::ClientConfig>,
    /// SNI.
    pub server_name: ServerName<'static>,
    /// Identifies the configuration, credential contents included: part of the key of upstream connection pools, so that
    /// a rotated Secret is used by new connections at once.
    pub generation: u64,
}

impl Originator {
    /// With the system's trust anchors, for origination without a CA of its own.
    pub fn new() -> Self {
        Self {}
    }

    /// The client configuration for `origination` to `host`. Verifies chain and name (design D14: `subject_alt_names`,
    /// else `sni`, else `host`). `alpn` is what the upstream is offered, such as `http/1.1`.
    ///
    /// Fails with [`Reason::Credential`](crate::reason::Reason::Credential) and a sentence that names Secret and key.
    pub fn client(
        &self,
        snapshot: &Snapshot,
        origination: &TlsOrigination,
        host: &str,
        alpn: &[&[u8]],
    ) -> Result<Client, Refusal> {
        let _ = (snapshot, origination, host, alpn);
        unimplemented!()
    }

    /// The refusal behind a failed handshake: what the server's certificate lacks, or what the server said.
    pub fn explain(origination: &TlsOrigination, error: &std::io::Error) -> Refusal {
        let _ = (origination, error);
        unimplemented!()
    }
}
