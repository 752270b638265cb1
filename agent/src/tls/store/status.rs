//! How a process stands with its certificates: part of `egret status`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{CertificateStore, State};
use crate::mesh::SpiffeId;

/// How a role stands with the certificates it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificateStatus {
    /// Identities with a certificate that is valid now.
    pub valid: usize,
    /// The one of them that ends first, and when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_to_end: Option<(SpiffeId, Timestamp)>,
    /// Identities whose certificate should have been renewed some time ago.
    pub overdue: Vec<SpiffeId>,
    /// Identities without one, and why.
    pub failed: BTreeMap<SpiffeId, String>,
}

impl CertificateStore {
    /// How it stands with every identity that somebody asked for.
    pub fn status(&self) -> CertificateStatus {
        let now = (self.shared.clock)();
        let mut status = CertificateStatus::default();
        for (identity, entry) in &*self.shared.entries.lock() {
            match &*entry.state.borrow() {
                State::Ready(certificate) if now < certificate.not_after() => {
                    status.valid += 1;
                    let end = Timestamp::try_from(certificate.not_after()).unwrap_or(Timestamp::MAX);
                    if status.first_to_end.as_ref().is_none_or(|(_, first)| end < *first) {
                        status.first_to_end = Some((identity.clone(), end));
                    }
                    if certificate.not_after() - certificate.lifetime() / 4 < now {
                        status.overdue.push(identity.clone());
                    }
                }
                State::Ready(_) => {
                    let why = "its certificate has expired, and the issuer gives no other".to_owned();
                    status.failed.insert(identity.clone(), why);
                }
                State::Failed(error, _) => {
                    status.failed.insert(identity.clone(), error.to_string());
                }
                State::Asking => {}
            }
        }
        status.overdue.sort();
        status
    }
}
