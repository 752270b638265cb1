//! The certificates of an authority: the one that signs, those between it and its root, and all roots to be trusted. Pure but for
//! the clock.

use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

use super::Keys;

/// One certificate.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) pem: String,
    pub(super) der: CertificateDer<'static>,
}

/// All of them. Checked: each may sign and is valid now, and the last below a root names a root that is there.
#[derive(Debug)]
pub(super) struct Chain {
    /// The signer first; a root among them is last.
    path: Vec<Link>,
    /// The root of the path first.
    roots: Vec<Link>,
    /// As they were given.
    named_roots: Option<String>,
}

impl Chain {
    /// What `keys` say; else what is wrong with it.
    pub(super) fn read(keys: &Keys, trust_domain: &str) -> Result<Self, String> {
        let path = links(&keys.certificates)?;
        let mut roots = keys.roots.as_deref().map(links).transpose()?.unwrap_or_default();
        let Some(last) = path.last() else { return Err("it has no certificate".to_owned()) };
        for link in path.iter().chain(&roots) {
            check(link, trust_domain)?;
        }
        let parsed = last.parse()?;
        let is_root = parsed.subject() == parsed.issuer();
        let found = if is_root {
            roots.iter().position(|root| root.der == last.der)
        } else {
            let names = |root: &Link| root.parse().is_ok_and(|root| root.subject() == parsed.issuer());
            roots.iter().position(names)
        };
        match (found, is_root, roots.is_empty()) {
            (Some(found), ..) => roots.swap(0, found),
            (None, true, true) => roots.push(last.clone()),
            (None, true, false) => return Err("its own root is not among its roots (ca.crt)".to_owned()),
            (None, false, _) => {
                return Err(format!(
                    "its certificates end with one that {} issued, and that root is missing (in ca.crt)",
                    parsed.issuer()
                ));
            }
        }
        Ok(Self { path, roots, named_roots: keys.roots.clone() })
    }

    /// The certificate whose key signs.
    pub(super) fn signer(&self) -> &Link {
        &self.path[0]
    }

    /// What follows a leaf, the root last.
    pub(super) fn after_leaf(&self) -> impl Iterator<Item = String> {
        let root = &self.roots[0];
        let between = self.path.iter().filter(|link| link.der != root.der);
        between.chain([root]).map(|link| link.pem.clone())
    }

    pub(super) fn roots_pem(&self) -> String {
        self.roots.iter().map(|root| root.pem.as_str()).collect()
    }

    /// When the first certificate on the way to the root ends.
    pub(super) fn not_after(&self) -> Result<SystemTime, String> {
        let mut first = i64::MAX;
        for link in self.path.iter().chain(&self.roots[..1]) {
            first = first.min(link.parse()?.validity().not_after.timestamp());
        }
        let seconds = u64::try_from(first).unwrap_or_default();
        Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }

    /// What was read, without the key.
    pub(super) fn keys(&self) -> Keys {
        Keys {
            certificates: self.path.iter().map(|link| link.pem.as_str()).collect(),
            key: String::new(),
            roots: self.named_roots.clone(),
        }
    }
}

impl Link {
    pub(super) fn parse(&self) -> Result<X509Certificate<'_>, String> {
        let parsed = X509Certificate::from_der(&self.der);
        parsed.map(|(_, certificate)| certificate).map_err(|e| format!("its certificate is malformed: {e}"))
    }
}

fn check(link: &Link, trust_domain: &str) -> Result<(), String> {
    let certificate = link.parse()?;
    let names = certificate.subject_alternative_name().map_err(|e| e.to_string())?;
    let mut domains = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .filter(|uri| uri.starts_with("spiffe://"));
    // Roots of other makers name none; then it is up to whoever brought them.
    if let Some(foreign) = domains.find(|found| found.strip_prefix("spiffe://") != Some(trust_domain)) {
        return Err(format!("it is the root of {foreign}, not of trust domain {trust_domain}"));
    }
    if !certificate.is_ca() {
        return Err("its certificate is not a CA's".to_owned());
    }
    let usage = certificate.key_usage().map_err(|e| e.to_string())?;
    if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err("its certificate may not sign others (key usage)".to_owned());
    }
    let validity = certificate.validity();
    if !validity.is_valid() {
        return Err(format!(
            "its certificate is valid from {} to {}",
            validity.not_before, validity.not_after
        ));
    }
    Ok(())
}

/// The certificates in a PEM text, each alone; never a key next to them.
fn links(pem: &str) -> Result<Vec<Link>, String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut found = Vec::new();
    let mut rest = pem;
    while let Some(start) = rest.find(BEGIN) {
        let end = rest[start..].find(END).ok_or("it has no certificate: the last one is cut off")?;
        let end = start + end + END.len();
        let pem = format!("{}\n", &rest[start..end]);
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|e| format!("it has no certificate: {e}"))?;
        found.push(Link { pem, der });
        rest = &rest[end..];
    }
    Ok(found)
}
