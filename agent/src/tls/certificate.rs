//! A workload's certificate and the TLS configurations made from it.
//!
//! `store` keeps them, `hbone` and `gateway` use the configurations. Sessions are never resumed inside the mesh: tunnel
//! connections are few and long-lived, and a full handshake each time is what re-checks the peer's certificate.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use parking_lot::Mutex;
use rustls::{
    ClientConfig, ConfigBuilder, RootCertStore, ServerConfig, WantsVerifier,
    client::{Resumption, WantsClientCert},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    server::{NoServerSessionStorage, WantsServerCert},
    sign::{CertifiedKey, SingleCertAndKey},
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{
    peer::{ExpectServer, ExpectWorkload, fault_in, identity_in},
    provider::{MESH_VERSIONS, provider},
    session,
};
use crate::{flow::CertificateName, mesh::SpiffeId};

/// ALPN of tunnels.
const ALPN_H2: &[u8] = b"h2";

/// What is wrong with a certificate that an issuer handed out, as a sentence for an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(String);

/// Certificate chain, key and trust anchors of one workload. The key lives in memory only.
pub struct WorkloadCertificate {
    number: u64,
    identity: SpiffeId,
    not_before: SystemTime,
    not_after: SystemTime,
    name: Option<CertificateName>,
    key: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    server: Arc<ServerConfig>,
    clients: Mutex<HashMap<SpiffeId, Arc<ClientConfig>>>,
}

impl fmt::Debug for WorkloadCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkloadCertificate")
            .field("identity", &self.identity)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl WorkloadCertificate {
    /// From DER: `chain` leaf first, without the roots. Checks that the key fits, that the leaf is the certificate of a
    /// workload, and that there is a root.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        roots: &[CertificateDer<'static>],
    ) -> Result<Self, Invalid> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let leaf = chain.first().ok_or_else(|| Invalid("the certificate chain is empty".to_owned()))?;
        let identity = identity_in(leaf).map_err(|e| Invalid(format!("the certificate is unusable: {e}")))?;
        let (not_before, not_after) = validity(leaf)?;
        let name = session::name(leaf);
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone()).map_err(|e| Invalid(format!("a root of {identity} is unusable: {e}")))?;
        }
        let roots = Arc::new(store);
        let key = CertifiedKey::from_der(chain, key, &provider())
            .map_err(|e| Invalid(format!("key and certificate of {identity} are unusable: {e}")))?;
        let key = Arc::new(key);
        let server = Arc::new(server_config(&key, &roots, identity.trust_domain())?);
        Ok(Self {
            number: NUMBER.fetch_add(1, Relaxed),
            identity,
            not_before,
            not_after,
            name,
            key,
            roots,
            server,
            clients: Mutex::default(),
        })
    }

    /// From PEM as Istio's CA protocol has it: the chain leaf first, its last element the root.
    pub fn from_pem(chain: &[String], key: PrivateKeyDer<'static>) -> Result<Self, Invalid> {
        let (chain, root) = Self::read_pem(chain)?;
        Self::new(chain, key, &[root])
    }

    /// The same, trusting `roots` instead of the root in the chain, which must lead to one of them.
    pub fn from_pem_trusting(
        chain: &[String],
        key: PrivateKeyDer<'static>,
        roots: &[CertificateDer<'static>],
    ) -> Result<Self, Invalid> {
        let (chain, _) = Self::read_pem(chain)?;
        let certificate = Self::new(chain, key, roots)?;
        certificate.check_chain()?;
        Ok(certificate)
    }

    /// The chain without its root, and the root.
    fn read_pem(
        chain: &[String],
    ) -> Result<(Vec<CertificateDer<'static>>, CertificateDer<'static>), Invalid> {
        let mut certificates = Vec::new();
        for pem in chain {
            // One element may hold several certificates.
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                certificates.push(
                    certificate.map_err(|e| Invalid(format!("the certificate chain is not PEM: {e}")))?,
                );
            }
        }
        let root = certificates.pop().ok_or_else(|| Invalid("the certificate chain is empty".to_owned()))?;
        Ok((certificates, root))
    }

    /// The certificate is one that others accept who have the same roots.
    fn check_chain(&self) -> Result<(), Invalid> {
        let Some((leaf, intermediates)) = self.key.cert.split_first() else {
            return Err(Invalid("the certificate chain is empty".to_owned()));
        };
        ExpectServer { roots: Arc::clone(&self.roots), server: self.identity.clone() }
            .check(leaf, intermediates, UnixTime::now())
            .map_err(|e| Invalid(format!("the certificate of {} is not trusted here: {e}", self.identity)))
    }

    /// Tells this certificate from every other of this process, earlier ones of the same identity included.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whose it is.
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// When it ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// What it is called in flow records.
    pub fn name(&self) -> Option<&CertificateName> {
        self.name.as_ref()
    }

    /// How long it is valid as a whole.
    pub fn lifetime(&self) -> Duration {
        self.not_after.duration_since(self.not_before).unwrap_or_default()
    }

    /// TLS 1.3 client side of a tunnel (ALPN `h2`): presents this certificate and accepts only `server`.
    pub fn client_config(&self, server: &SpiffeId) -> Arc<ClientConfig> {
        let mut clients = self.clients.lock();
        if let Some(config) = clients.get(server) {
            return Arc::clone(config);
        }
        let config = expecting(Arc::clone(&self.roots), server)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&self.key))));
        let config = Arc::new(mesh_client(config));
        clients.insert(server.clone(), Arc::clone(&config));
        config
    }

    /// TLS 1.3 server side of a tunnel (ALPN `h2`): requires a client certificate of the same trust domain.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// TLS 1.3 server side (ALPN `h2`) for callers that have no certificate yet.
    pub fn server_config_for_anyone(&self) -> ServerConfig {
        mesh_server(server_versions().with_no_client_auth(), &self.key)
    }
}

/// TLS 1.3 client side (ALPN `h2`) of a caller that has no certificate yet: accepts only `server`.
pub fn client_without_certificate(
    roots: &[CertificateDer<'static>],
    server: &SpiffeId,
) -> Result<Arc<ClientConfig>, Invalid> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|e| Invalid(format!("a root is unusable: {e}")))?;
    }
    Ok(Arc::new(mesh_client(expecting(Arc::new(store), server).with_no_client_auth())))
}

fn expecting(roots: Arc<RootCertStore>, server: &SpiffeId) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(MESH_VERSIONS)
        .expect("the provider has the suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ExpectServer { roots, server: server.clone() }))
}

fn mesh_client(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    // The name is an address or a formality: identities are SPIFFE.
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    config
}

fn server_versions() -> ConfigBuilder<ServerConfig, WantsVerifier> {
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(MESH_VERSIONS)
        .expect("the provider has the suites of TLS 1.3")
}

fn mesh_server(
    builder: ConfigBuilder<ServerConfig, WantsServerCert>,
    key: &Arc<CertifiedKey>,
) -> ServerConfig {
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key))));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

fn server_config(
    key: &Arc<CertifiedKey>,
    roots: &Arc<RootCertStore>,
    trust_domain: &str,
) -> Result<ServerConfig, Invalid> {
    let verifier = ExpectWorkload::new(Arc::clone(roots), trust_domain)
        .map_err(|e| Invalid(format!("the roots of trust domain {trust_domain} are unusable: {e}")))?;
    Ok(mesh_server(server_versions().with_client_cert_verifier(Arc::new(verifier)), key))
}

/// When the first of these certificates ends.
pub fn end_of_pem(pem: &str) -> Result<Timestamp, Invalid> {
    let mut first: Option<SystemTime> = None;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|e| Invalid(format!("it is not PEM: {e}")))?;
        let (_, end) = validity(&certificate)?;
        first = Some(first.map_or(end, |first| first.min(end)));
    }
    let first = first.ok_or_else(|| Invalid("there is no certificate in it".to_owned()))?;
    Timestamp::try_from(first).map_err(|e| Invalid(format!("it ends at no time that can be told: {e}")))
}

/// First and last second of a certificate.
fn validity(certificate: &[u8]) -> Result<(SystemTime, SystemTime), Invalid> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|e| Invalid(format!("the certificate is not X.509: {e}")))?;
    let time = |seconds: i64| {
        u64::try_from(seconds)
            .ok()
            .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
            .ok_or_else(|| Invalid("the certificate's validity is out of range".to_owned()))
    };
    let validity = parsed.validity();
    Ok((time(validity.not_before.timestamp())?, time(validity.not_after.timestamp())?))
}

/// The identity in the verified certificate of the peer of `connection`.
pub fn peer_identity(connection: &rustls::ServerConnection) -> Option<SpiffeId> {
    identity_in(connection.peer_certificates()?.first()?).ok()
}

/// A failed mesh handshake in plain words, where the peer's certificate is to blame.
pub fn explain(error: io::Error) -> io::Error {
    match fault_in(&error) {
        Some(fault) => io::Error::new(error.kind(), format!("the peer's certificate is refused: {fault}")),
        None => error,
    }
}

#[cfg(test)]
mod tests;
