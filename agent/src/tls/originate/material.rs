//! Credentials: which Secrets a DestinationRule uses, and what is wrong with them.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    InconsistentKeys, RootCertStore,
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::CertifiedKey,
};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{
    mesh::{Credential, Kind, ObjectRef, Snapshot},
    reason::{Reason, Refusal},
    route::TlsOrigination,
    tls::{originate::as_text, provider::provider},
};

/// The Secrets behind one DestinationRule.
pub(super) struct Secrets {
    /// `credentialName`.
    credential: Option<Arc<Credential>>,
    /// `<credentialName>-cacert`, where Istio also looks for the CA.
    ca: Option<Arc<Credential>>,
}

impl Secrets {
    pub(super) fn new(credential: Option<Arc<Credential>>, ca: Option<Arc<Credential>>) -> Self {
        Self { credential, ca }
    }

    /// Looks them up. A name that leads nowhere is a refusal: without its Secret there is nothing to verify with.
    pub(super) fn find(snapshot: &Snapshot, origination: &TlsOrigination) -> Result<Self, Refusal> {
        let rule = &origination.object;
        let Some(name) = origination.credential_name.as_deref() else {
            if origination.mutual {
                let why = format!("{rule} asks for mode MUTUAL and names no credentialName");
                return Err(Refusal::new(Reason::Credential, why).by(rule.clone()));
            }
            return Ok(Self { credential: None, ca: None });
        };
        let credential = snapshot.credentials.get(name).cloned();
        let ca = snapshot.credentials.get(&format!("{name}-cacert")).cloned();
        if credential.is_none() && ca.is_none() {
            let namespace = &snapshot.settings.gateway.namespace;
            let why = format!(
                "there is no such Secret with TLS keys in the gateway's namespace (credentialName of {rule})"
            );
            return Err(Refusal::new(Reason::Credential, why).by(ObjectRef::new(
                Kind::Secret,
                namespace.as_str(),
                name,
            )));
        }
        Ok(Self { credential, ca })
    }

    /// Whether a configuration made from these is also right for `other`.
    pub(super) fn same_contents(&self, other: &Self) -> bool {
        let same = |a: &Option<Arc<Credential>>, b: &Option<Arc<Credential>>| match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a == b,
            _ => false,
        };
        same(&self.credential, &other.credential) && same(&self.ca, &other.ca)
    }
}

/// Parsed Secrets.
pub(super) struct Material {
    /// Client certificate and key.
    pub(super) key: Option<Arc<CertifiedKey>>,
    /// The CA to verify with; absent: the system's.
    pub(super) roots: Option<Arc<RootCertStore>>,
    /// Revocation lists.
    pub(super) crls: Arc<[CertRevocationList<'static>]>,
    /// First and last moment of the client certificate.
    validity: Option<(SystemTime, SystemTime)>,
    object: Option<ObjectRef>,
}

impl Material {
    pub(super) fn parse(secrets: &Secrets, origination: &TlsOrigination) -> Result<Self, Refusal> {
        let mut material = Self { key: None, roots: None, crls: Arc::new([]), validity: None, object: None };
        let Some(main) = secrets.credential.as_ref().or(secrets.ca.as_ref()) else {
            return Ok(material);
        };
        material.object = Some(main.object.clone());
        if origination.mutual {
            let (key, validity) = client_key(main)?;
            material.key = Some(Arc::new(key));
            material.validity = Some(validity);
        }
        let ca = [secrets.credential.as_ref(), secrets.ca.as_ref()]
            .into_iter()
            .flatten()
            .find_map(|secret| Some((secret, secret.ca.as_deref()?)));
        match ca {
            Some((secret, pem)) => material.roots = Some(Arc::new(roots(secret, pem)?)),
            // Nothing to verify, so nothing to verify with.
            None if origination.insecure_skip_verify => {}
            None => {
                return Err(refuse(
                    main,
                    "ca.crt (or cacert) is missing, so the server cannot be verified; add the CA that signs the server's \
                     certificate",
                ));
            }
        }
        let lists = [secrets.credential.as_ref(), secrets.ca.as_ref()]
            .into_iter()
            .flatten()
            .find_map(|secret| Some((secret, secret.crl.as_deref()?)));
        if let Some((secret, pem)) = lists {
            material.crls = revocation_lists(secret, pem)?;
        }
        Ok(material)
    }

    /// Whether the client certificate is valid at `now`.
    pub(super) fn check_validity(&self, now: SystemTime) -> Result<(), Refusal> {
        let (Some((from, to)), Some(object)) = (self.validity, &self.object) else {
            return Ok(());
        };
        let why = if now < from {
            format!("is not valid before {}", as_text(from))
        } else if now > to {
            format!("expired at {}; renew it", as_text(to))
        } else {
            return Ok(());
        };
        let why = format!("{object}: the certificate in tls.crt (or cert) {why}");
        Err(Refusal::new(Reason::Credential, why).by(object.clone()))
    }
}

fn refuse(secret: &Credential, why: impl fmt::Display) -> Refusal {
    Refusal::new(Reason::Credential, format!("{}: {why}", secret.object)).by(secret.object.clone())
}

/// All PEM blocks of one kind; at least one.
fn pem_blocks<T: PemObject>(
    secret: &Credential,
    pem: &[u8],
    key: &str,
    what: &str,
) -> Result<Vec<T>, Refusal> {
    let blocks: Result<Vec<T>, pem::Error> = T::pem_slice_iter(pem).collect();
    let blocks = blocks.map_err(|e| refuse(secret, format!("{key} is not valid PEM: {e}")))?;
    if blocks.is_empty() {
        return Err(refuse(secret, format!("{key} holds no {what} in PEM form")));
    }
    Ok(blocks)
}

fn client_key(secret: &Credential) -> Result<(CertifiedKey, (SystemTime, SystemTime)), Refusal> {
    const CERTIFICATE: &str = "tls.crt (or cert)";
    const KEY: &str = "tls.key (or key)";
    let pem = secret
        .certificate
        .as_deref()
        .ok_or_else(|| refuse(secret, format!("{CERTIFICATE} is missing, and mode MUTUAL needs it")))?;
    let chain: Vec<CertificateDer<'static>> = pem_blocks(secret, pem, CERTIFICATE, "certificate")?;
    let pem = secret
        .key
        .as_deref()
        .ok_or_else(|| refuse(secret, format!("{KEY} is missing, and mode MUTUAL needs it")))?;
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|e| match e {
        pem::Error::NoItemsFound => refuse(
            secret,
            format!("{KEY} holds no private key in PEM form (encrypted keys are not supported)"),
        ),
        e => refuse(secret, format!("{KEY} is not valid PEM: {e}")),
    })?;
    let (_, leaf) = X509Certificate::from_der(&chain[0])
        .map_err(|e| refuse(secret, format!("{CERTIFICATE} is not an X.509 certificate: {e}")))?;
    let time = |seconds: i64| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    };
    let validity =
        (time(leaf.validity().not_before.timestamp()), time(leaf.validity().not_after.timestamp()));
    let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|e| match e {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            refuse(secret, format!("{KEY} does not fit the certificate in {CERTIFICATE}"))
        }
        e => refuse(secret, format!("{KEY} or {CERTIFICATE} is unusable: {e}")),
    })?;
    Ok((key, validity))
}

fn roots(secret: &Credential, pem: &[u8]) -> Result<RootCertStore, Refusal> {
    let mut roots = RootCertStore::empty();
    for certificate in pem_blocks::<CertificateDer<'_>>(secret, pem, "ca.crt (or cacert)", "certificate")? {
        roots
            .add(certificate)
            .map_err(|e| refuse(secret, format!("a certificate in ca.crt (or cacert) is unusable: {e}")))?;
    }
    Ok(roots)
}

fn revocation_lists(secret: &Credential, pem: &[u8]) -> Result<Arc<[CertRevocationList<'static>]>, Refusal> {
    pem_blocks::<CertificateRevocationListDer<'_>>(secret, pem, "ca.crl (or crl)", "revocation list")?
        .iter()
        .map(|list| {
            OwnedCertRevocationList::from_der(list)
                .map(CertRevocationList::from)
                .map_err(|e| refuse(secret, format!("a revocation list in ca.crl (or crl) is unusable: {e}")))
        })
        .collect()
}
