//! `egret ca`: issues the SPIFFE certificates of workloads, over Istio's CA protocol.
//!
//! `app` runs it; `tls::issuer` is its client. It decides by the caller on its socket, never by what a request claims about
//! itself. Knows no Kubernetes: which workloads exist is the business of whoever holds the socket.

mod authority;
mod service;

pub(crate) mod protocol;
#[cfg(test)]
mod tests;

pub use authority::{Authority, DEFAULT_TTL};
pub use service::{listen, serve};

/// Why the authority cannot work or does not sign, as a sentence for an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Error {
    fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}
