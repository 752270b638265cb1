//! `egret ca`: issues the SPIFFE certificates of workloads, over Istio's CA protocol.
//!
//! `app` runs it; `tls::issuer` is its client. On a machine it decides by the caller on its socket, on a cluster by the caller's
//! token and node, never by what a request claims about itself. Knows no Kubernetes: who callers are and what runs where it asks of
//! [`Callers`], and where keys are kept is the business of whoever hands them in.

mod authority;
mod chain;
mod decision;
mod file;
mod limits;
mod method;
mod network;
mod office;
mod service;
mod tally;

pub(crate) mod protocol;
#[cfg(test)]
mod tests;

pub use authority::{Authority, DEFAULT_TTL, Keys};
pub use decision::{Account, Caller, Rules};
pub use network::{Callers, Desk, Opening, Unknown, serve as serve_network};
pub use office::Office;
pub use service::{listen, serve};
pub use tally::Tally;

/// Why the authority cannot work or does not sign, as a sentence for an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Error {
    fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}
