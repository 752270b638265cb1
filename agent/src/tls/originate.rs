//! TLS origination: the client side towards external services, as a DestinationRule asks for it.
//!
//! `gateway` takes a [`Client`] for every upstream connection, and asks [`Originator::explain`] when the handshake fails.
//! `material` reads credentials, `verify` checks servers, `explain` puts faults into words.

mod explain;
mod material;
mod verify;

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore, sign::SingleCertAndKey};
use rustls_pki_types::ServerName;

use self::{
    material::{Material, Secrets},
    verify::{AcceptAny, ExpectUpstream, ExpectedName},
};
use crate::{
    flow::CertificateName,
    mesh::{Credential, Snapshot},
    reason::{Reason, Refusal},
    route::TlsOrigination,
    tls::{
        provider::{INTERNET_VERSIONS, provider},
        session, system,
    },
};

/// Configurations kept; with more (a wildcard host has one per name) any other is dropped, and made again when needed.
const MAX_CACHED: usize = 4096;

/// Makes and caches client configurations. One per gateway.
pub struct Originator {
    system_roots: Arc<RootCertStore>,
    cache: Mutex<HashMap<Key, Entry>>,
    generations: AtomicU64,
}

/// What an upstream is offered to speak, such as `http/1.1`.
pub type Alpn = &'static [&'static [u8]];

/// What a configuration depends on, besides the contents of Secrets.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    origination: Arc<TlsOrigination>,
    host: Box<str>,
    alpn: Alpn,
}

struct Entry {
    secrets: Secrets,
    material: Material,
    client: Arc<Client>,
}

/// A client configuration together with the name it sends as SNI.
pub struct Client {
    /// For `tokio_rustls::TlsConnector`.
    pub config: Arc<ClientConfig>,
    /// SNI.
    pub server_name: ServerName<'static>,
    /// The client certificate that is presented where the server asks for one.
    pub certificate: Option<CertificateName>,
    /// Identifies the configuration, credential contents included: part of the key of upstream connection pools, so that
    /// a rotated Secret is used by new connections at once.
    pub generation: u64,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("server_name", &self.server_name)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Default for Originator {
    fn default() -> Self {
        Self::new()
    }
}

/// What is wrong with the Secrets behind a DestinationRule, before a connection needs them.
pub fn check_credential(
    credential: Option<Arc<Credential>>,
    ca: Option<Arc<Credential>>,
    origination: &TlsOrigination,
) -> Result<(), Refusal> {
    Material::parse(&Secrets::new(credential, ca), origination)?.check_validity(SystemTime::now())
}

impl Originator {
    /// With the system's trust anchors, for origination without a CA of its own. Reads files.
    pub fn new() -> Self {
        Self::with_system_roots(system::roots())
    }

    fn with_system_roots(roots: RootCertStore) -> Self {
        Self { system_roots: Arc::new(roots), cache: Mutex::default(), generations: AtomicU64::new(1) }
    }

    /// The client configuration for `origination` to `host`. Verifies chain and name (design D14: `subject_alt_names`,
    /// else `sni`, else `host`).
    ///
    /// Fails with [`Reason::Credential`] and a sentence that names Secret and key.
    pub fn client(
        &self,
        snapshot: &Snapshot,
        origination: &Arc<TlsOrigination>,
        host: &str,
        alpn: Alpn,
    ) -> Result<Arc<Client>, Refusal> {
        let key = Key { origination: Arc::clone(origination), host: host.into(), alpn };
        let secrets = Secrets::find(snapshot, origination)?;
        let now = SystemTime::now();
        if let Some(entry) = self.cache.lock().get_mut(&key)
            && entry.secrets.same_contents(&secrets)
        {
            // Keeps the newer snapshot's Secrets, so that the older one's memory can go.
            entry.secrets = secrets;
            entry.material.check_validity(now)?;
            return Ok(Arc::clone(&entry.client));
        }
        // Parsed and built outside the lock. Two threads may do it at once; the last one's stays, and both are right.
        let material = Material::parse(&secrets, origination)?;
        material.check_validity(now)?;
        let (config, server_name) = self.configure(&key, &material)?;
        let generation = self.generations.fetch_add(1, Relaxed);
        let certificate = material.key.as_ref().and_then(|key| session::name(key.cert.first()?));
        let client = Arc::new(Client { config: Arc::new(config), server_name, certificate, generation });
        let mut cache = self.cache.lock();
        if cache.len() >= MAX_CACHED
            && !cache.contains_key(&key)
            && let Some(other) = cache.keys().next().cloned()
        {
            cache.remove(&other);
        }
        cache.insert(key, Entry { secrets, material, client: Arc::clone(&client) });
        Ok(client)
    }

    fn configure(
        &self,
        key: &Key,
        material: &Material,
    ) -> Result<(ClientConfig, ServerName<'static>), Refusal> {
        let origination = &key.origination;
        let fail = |why: String| Refusal::new(Reason::UpstreamTls, why).by(origination.object.clone());
        let name = origination.sni.as_deref().unwrap_or(&key.host);
        let server_name = server_name(name)
            .ok_or_else(|| fail(format!("{}: {name:?} cannot be a TLS server name", origination.object)))?;
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(INTERNET_VERSIONS)
            .map_err(|e| fail(format!("TLS cannot be configured: {e}")))?
            .dangerous();
        let builder = if origination.insecure_skip_verify {
            builder.with_custom_certificate_verifier(Arc::new(AcceptAny))
        } else {
            let roots = match &material.roots {
                Some(roots) => Arc::clone(roots),
                None if self.system_roots.is_empty() => {
                    return Err(fail(format!(
                        "{} names no credential with a CA, and this system has no trust anchors to verify {name} with; \
                         install the ca-certificates package or name a credential",
                        origination.object
                    )));
                }
                None => Arc::clone(&self.system_roots),
            };
            let names = if origination.subject_alt_names.is_empty() {
                vec![ExpectedName::Server(server_name.clone())]
            } else {
                origination.subject_alt_names.iter().map(|name| ExpectedName::parse(name)).collect()
            };
            builder.with_custom_certificate_verifier(Arc::new(ExpectUpstream {
                roots,
                names,
                crls: Arc::clone(&material.crls),
            }))
        };
        let mut config = match &material.key {
            Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(key)))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = key.alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok((config, server_name))
    }

    /// The refusal behind a failed handshake: what the server's certificate lacks, or what the server said.
    pub fn explain(origination: &TlsOrigination, error: &std::io::Error) -> Refusal {
        let detail = explain::sentence(origination, error);
        Refusal::new(Reason::UpstreamTls, detail).by(origination.object.clone())
    }
}

/// A DNS name, without its trailing dot, or an IP address.
fn server_name(name: &str) -> Option<ServerName<'static>> {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(ServerName::IpAddress(address.into()));
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    ServerName::try_from(name.to_ascii_lowercase()).ok()
}

/// A moment, for sentences.
fn as_text(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| "an unknown time".to_owned(), |time| time.to_string())
}

#[cfg(test)]
mod tests;
