//! What this system trusts: the anchors that external servers are verified with where nobody names a CA. `SSL_CERT_FILE` and
//! `SSL_CERT_DIR` name others. Reads files.

use rustls::{ClientConfig, RootCertStore};

use super::provider::{INTERNET_VERSIONS, provider};

/// The trust anchors.
pub fn roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "some of the system's trust anchors cannot be read");
    }
    let mut roots = RootCertStore::empty();
    let (_, unusable) = roots.add_parsable_certificates(found.certs);
    if unusable > 0 {
        tracing::debug!(unusable, "some of the system's trust anchors are not usable");
    }
    roots
}

/// A client that verifies servers with them, and offers these protocols.
pub fn client(alpn: &[&[u8]]) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(INTERNET_VERSIONS)?
        .with_root_certificates(roots())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}
