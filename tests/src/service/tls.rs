//! The TLS port: who it is, and whom it lets in.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, crypto::aws_lc_rs, server::WebPkiClientVerifier,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio_rustls::TlsAcceptor;
use x509_parser::parse_x509_certificate;

use super::read;

/// The certificate a client came with.
#[derive(Clone, Debug)]
pub(super) struct Client {
    /// Common name of its subject; empty where it has none.
    pub(super) common_name: String,
}

impl Client {
    /// The client of an established connection. Its certificate was verified in the handshake.
    pub(super) fn of(connection: &ServerConnection) -> Self {
        let common_name = connection
            .peer_certificates()
            .and_then(<[_]>::first)
            .and_then(|der| parse_x509_certificate(der).ok())
            .and_then(|(_, certificate)| {
                let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
                Some(name.to_owned())
            })
            .unwrap_or_default();
        Self { common_name }
    }
}

/// TLS 1.2 and 1.3, HTTP/1.1 and HTTP/2, client certificate required.
pub(super) fn acceptor(certificate: &Path, key: &Path, client_ca: &Path) -> Result<TlsAcceptor> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for ca in certificates(client_ca)? {
        roots.add(ca).with_context(|| format!("no usable CA in {}", client_ca.display()))?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let key_der = PrivateKeyDer::from_pem_slice(&read(key)?)
        .with_context(|| format!("no private key in {}", key.display()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(certificate)?, key_der)
        .with_context(|| format!("{} and {} do not match", certificate.display(), key.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("no certificate in {}", path.display()))
}
