//! The signing key of a trust domain, and what it signs. Pure but for the clock; where the key is kept is others' business.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use time::OffsetDateTime;

use super::{Error, chain::Chain};
use crate::mesh::SpiffeId;

/// How long workload certificates are valid, unless told otherwise.
pub const DEFAULT_TTL: Duration = Duration::from_hours(24);
/// Shorter ones would be renewed all the time.
const MIN_TTL: Duration = Duration::from_mins(1);
/// Before now, for clocks that are a little behind.
const BACKDATE: Duration = Duration::from_mins(1);
const ROOT_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);
/// The authority of one trust domain. Cheap to clone.
#[derive(Clone)]
pub struct Authority {
    inner: Arc<Inner>,
    ttl: Duration,
}

struct Inner {
    trust_domain: String,
    chain: Chain,
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

/// What an authority is made of, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// The certificate that signs; then those between it and the root, where it is no root itself.
    pub certificates: String,
    /// The private key of the first one.
    pub key: String,
    /// Roots; where there are none, the last certificate is the root. With several, all are trusted, and the authority may change
    /// from one to another without a gap.
    pub roots: Option<String>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("trust_domain", &self.inner.trust_domain).finish_non_exhaustive()
    }
}

impl Authority {
    /// A new authority, in memory only.
    pub fn generate(trust_domain: &str) -> Result<Self, Error> {
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
        let certificates = params.self_signed(&key).map_err(fail)?.pem();
        let keys = Keys { certificates, key: key.serialize_pem(), roots: None };
        Self::of_keys(&keys, trust_domain).map_err(Error::new)
    }

    /// The authority that has these keys; else what is wrong with them, to be said of wherever they are kept.
    pub fn of_keys(keys: &Keys, trust_domain: &str) -> Result<Self, String> {
        let key = KeyPair::from_pem(&keys.key).map_err(|e| format!("it has no private key: {e}"))?;
        let chain = Chain::read(keys, trust_domain)?;
        let signer = chain.signer();
        if signer.parse()?.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err("its key does not fit its certificate".to_owned());
        }
        let issuer = Issuer::from_ca_cert_der(&signer.der, key).map_err(|e| e.to_string())?;
        let inner =
            Inner { trust_domain: trust_domain.to_owned(), not_after: chain.not_after()?, chain, issuer };
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

    /// When the first of its own certificates ends: the one that signs, or one between it and the root.
    pub fn not_after(&self) -> SystemTime {
        self.inner.not_after
    }

    /// What everybody has to trust, PEM: the root of what it signs, and other roots that whoever keeps the keys named.
    pub fn roots_pem(&self) -> String {
        self.inner.chain.roots_pem()
    }

    /// What it is made of, to be kept somewhere.
    pub fn keys(&self) -> Keys {
        Keys { key: self.inner.issuer.key().serialize_pem(), ..self.inner.chain.keys() }
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
        let mut answer = vec![leaf.pem()];
        answer.extend(self.inner.chain.after_leaf());
        Ok(answer)
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
