//! The authority at work: its keys, wherever they are kept, with a certificate of its own for the port at which it is asked. Replaced
//! as a whole when the keys are.

use std::{fmt, future::Future, pin::Pin, sync::Arc};

use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::{Authority, Keys, Rules};
use crate::{
    mesh::SpiffeId,
    tls::{
        certificate::WorkloadCertificate,
        issuer::{self, Issuer, exchange::Asking},
        store::CertificateStore,
    },
};

/// An authority with a certificate of its own. Cheap to clone.
#[derive(Clone)]
pub struct Office {
    pub(super) authority: Authority,
    /// The authority's own certificate; renews it in time.
    pub(super) certificates: CertificateStore,
    pub(super) identity: SpiffeId,
}

impl fmt::Debug for Office {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Office").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Office {
    /// Opens with `keys`, when what they sign is trusted by those who trust their roots; else what is wrong with them.
    pub async fn open(keys: &Keys, trust_domain: &str, rules: &Rules) -> Result<Self, String> {
        let authority = Authority::of_keys(keys, trust_domain)?;
        let identity = rules.authority(trust_domain).map_err(|e| e.to_string())?;
        let certificates = CertificateStore::new(Arc::new(Itself(authority.clone())));
        certificates.fetch(&identity).await.map_err(|e| format!("what it signs is of no use: {e}"))?;
        Ok(Self { authority, certificates, identity })
    }

    /// The authority.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}

/// The authority as an issuer: of its own certificate.
struct Itself(Authority);

impl Itself {
    fn sign(&self, identity: &SpiffeId) -> Result<WorkloadCertificate, String> {
        let asking = Asking::for_identity(identity)?;
        let chain = self.0.sign(identity, &asking.request().csr, None).map_err(|e| e.to_string())?;
        let roots: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(self.0.roots_pem().as_bytes()).collect();
        let roots = roots.map_err(|e| e.to_string())?;
        WorkloadCertificate::from_pem_trusting(&chain, asking.into_key(), &roots).map_err(|e| e.to_string())
    }
}

impl Issuer for Itself {
    fn issue<'a>(
        &'a self,
        identity: &'a SpiffeId,
    ) -> Pin<Box<dyn Future<Output = Result<WorkloadCertificate, issuer::Error>> + Send + 'a>> {
        Box::pin(std::future::ready(self.sign(identity).map_err(issuer::Error)))
    }
}
