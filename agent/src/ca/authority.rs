//! The signing key of a trust domain: kept in one file, so that a CA that was killed stays trusted when it is back.

use std::{
    fmt,
    fs::{self, DirBuilder, OpenOptions, Permissions},
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use time::OffsetDateTime;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

use super::Error;
use crate::mesh::SpiffeId;

/// How long workload certificates are valid, unless told otherwise.
pub const DEFAULT_TTL: Duration = Duration::from_hours(24);
/// Shorter ones would be renewed all the time.
const MIN_TTL: Duration = Duration::from_mins(1);
/// Before now, for clocks that are a little behind.
const BACKDATE: Duration = Duration::from_mins(1);
const ROOT_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);
/// Key and certificate in one file: there is no moment at which one exists without the other.
const FILE: &str = "root.pem";

/// The authority of one trust domain. Cheap to clone.
#[derive(Clone)]
pub struct Authority {
    inner: Arc<Inner>,
    ttl: Duration,
}

struct Inner {
    trust_domain: String,
    root: String,
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("trust_domain", &self.inner.trust_domain).finish_non_exhaustive()
    }
}

impl Authority {
    /// The authority kept in `directory`, made if there is none. The file is `root.pem`, mode 0600, the directory 0700.
    pub fn load_or_create(directory: &Path, trust_domain: &str) -> Result<Self, Error> {
        let path = directory.join(FILE);
        match fs::read_to_string(&path) {
            Ok(pem) => return Self::load(&path, &pem, trust_domain),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(Error::new(format!("{} cannot be read: {e}", path.display()))),
        }
        let (_, pem) = Self::generate(trust_domain)?;
        store(directory, &path, &pem)?;
        // Another process may have been faster; what is in the file counts.
        let pem = fs::read_to_string(&path)
            .map_err(|e| Error::new(format!("{} cannot be read: {e}", path.display())))?;
        Self::load(&path, &pem, trust_domain)
    }

    /// A new authority, in memory only, and the PEM of its key and certificate.
    pub fn generate(trust_domain: &str) -> Result<(Self, String), Error> {
        // Refuses what is no trust domain.
        SpiffeId::new(trust_domain, "ns", "sa").map_err(|e| Error::new(e.to_string()))?;
        let fail = |e: rcgen::Error| Error::new(format!("no root certificate could be made: {e}"));
        let key = KeyPair::generate().map_err(fail)?;
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        params.not_before = OffsetDateTime::from(now - BACKDATE);
        params.not_after = OffsetDateTime::from(now + ROOT_LIFETIME);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, trust_domain);
        params.distinguished_name.push(DnType::CommonName, "Egret root");
        params.serial_number = Some(random_serial());
        // No intermediates: this key signs workloads only.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
        let root = params.self_signed(&key).map_err(fail)?.pem();
        let pem = format!("{}{root}", key.serialize_pem());
        Ok((Self::parse(&pem, trust_domain).map_err(Error::new)?, pem))
    }

    fn load(path: &Path, pem: &str, trust_domain: &str) -> Result<Self, Error> {
        let metadata = fs::metadata(path);
        let path = path.display();
        let mode =
            metadata.map_err(|e| Error::new(format!("{path} cannot be read: {e}")))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(Error::new(format!(
                "{path} has mode {:o}, so others can read the CA's key: set it to 600, or remove the file if the \
                 key may have leaked, and a new root is made",
                mode & 0o777
            )));
        }
        Self::parse(pem, trust_domain).map_err(|why| {
            Error::new(format!(
                "{path} is unusable: {why}. Restore it, or remove it to make a new root (every workload then gets a new \
                 certificate)"
            ))
        })
    }

    fn parse(pem: &str, trust_domain: &str) -> Result<Self, String> {
        let key = KeyPair::from_pem(pem).map_err(|e| format!("it has no private key: {e}"))?;
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| format!("it has no certificate: {e}"))?;
        let (_, root) =
            X509Certificate::from_der(&der).map_err(|e| format!("its certificate is malformed: {e}"))?;
        let names = root.subject_alternative_name().map_err(|e| e.to_string())?;
        let found: Vec<&str> = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
            .collect();
        if found != [format!("spiffe://{trust_domain}")] {
            return Err(format!(
                "it is the root of {}, not of trust domain {trust_domain}",
                found.join(", ")
            ));
        }
        if !root.is_ca() {
            return Err("its certificate is not a CA's".to_owned());
        }
        if root.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err("its key does not fit its certificate".to_owned());
        }
        if !root.validity().is_valid() {
            return Err(format!(
                "its certificate is valid from {} to {}",
                root.validity().not_before,
                root.validity().not_after
            ));
        }
        let seconds = u64::try_from(root.validity().not_after.timestamp()).unwrap_or_default();
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(|e| e.to_string())?;
        let root = pem_of_certificate(pem)?;
        let not_after = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let inner = Inner { trust_domain: trust_domain.to_owned(), root, not_after, issuer };
        Ok(Self { inner: Arc::new(inner), ttl: DEFAULT_TTL })
    }

    /// The same authority with another validity for workload certificates, which is also the most that is granted.
    /// At least a minute.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl.max(MIN_TTL);
        self
    }

    /// The trust domain it signs for.
    pub fn trust_domain(&self) -> &str {
        &self.inner.trust_domain
    }

    /// The root certificate, PEM.
    pub fn root_pem(&self) -> &str {
        &self.inner.root
    }

    /// Signs a certificate for `identity` with the public key of a request, whose other contents are ignored. `validity` is
    /// what was asked for. PEM, the leaf first, the root last.
    pub fn sign(
        &self,
        identity: &SpiffeId,
        request: &str,
        validity: Option<Duration>,
    ) -> Result<Vec<String>, Error> {
        if identity.trust_domain() != self.inner.trust_domain {
            return Err(Error::new(format!(
                "{identity} is not signed here: this CA's trust domain is {}",
                self.inner.trust_domain
            )));
        }
        let request = CertificateSigningRequestParams::from_pem(request)
            .map_err(|e| Error::new(format!("the certificate request is refused: {e}")))?;
        let now = SystemTime::now();
        let ttl = validity.unwrap_or(self.ttl).clamp(MIN_TTL, self.ttl);
        let mut params = CertificateParams::default();
        params.not_before = OffsetDateTime::from(now - BACKDATE);
        params.not_after = OffsetDateTime::from((now + ttl).min(self.inner.not_after));
        params.serial_number = Some(random_serial());
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, self.inner.trust_domain.as_str());
        params.subject_alt_names = vec![uri(&identity.to_string())?];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params
            .signed_by(&request.public_key, &self.inner.issuer)
            .map_err(|e| Error::new(format!("the certificate could not be signed: {e}")))?;
        Ok(vec![leaf.pem(), self.inner.root.clone()])
    }
}

fn uri(uri: &str) -> Result<SanType, Error> {
    uri.try_into().map(SanType::URI).map_err(|e| Error::new(format!("{uri} is no URI name: {e}")))
}

/// 127 random bits (RFC 5280 §4.1.2.2: positive).
fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// The certificate block alone, for handing out; never the key next to it.
fn pem_of_certificate(pem: &str) -> Result<String, String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let start = pem.find(BEGIN).ok_or("it has no certificate")?;
    let end = pem[start..].find(END).ok_or("its certificate is cut off")?;
    Ok(format!("{}\n", &pem[start..start + end + END.len()]))
}

/// Writes the file so that it is there as a whole or not at all, and never over one that is there.
fn store(directory: &Path, path: &Path, pem: &str) -> Result<(), Error> {
    let fail =
        |what: &Path, e: std::io::Error| Error::new(format!("{} cannot be written: {e}", what.display()));
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|e| fail(directory, e))?;
    let temporary: PathBuf = directory.join(format!(".{FILE}.{}", std::process::id()));
    let _ = fs::remove_file(&temporary);
    let result = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(pem.as_bytes())?;
        file.sync_all()?;
        match fs::hard_link(&temporary, path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    })();
    let _ = fs::remove_file(&temporary);
    result.map_err(|e| fail(path, e))
}
