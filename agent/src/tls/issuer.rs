//! Where certificates come from: one trait that speaks Istio's CA protocol.

pub(crate) mod exchange;
pub mod network;
pub mod unix;

use std::{future::Future, pin::Pin};

use crate::{mesh::SpiffeId, tls::certificate::WorkloadCertificate};

/// Why no certificate was to be had, as a sentence for an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// Issues workload certificates.
pub trait Issuer: Send + Sync {
    /// A fresh key and a certificate for `identity`.
    fn issue<'a>(
        &'a self,
        identity: &'a SpiffeId,
    ) -> Pin<Box<dyn Future<Output = Result<WorkloadCertificate, Error>> + Send + 'a>>;
}
