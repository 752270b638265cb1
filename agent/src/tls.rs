//! TLS and identities: certificates of workloads, verification, origination, and the issuer behind them.
//!
//! Only `provider` names the cryptography crate. Does not open sockets, except the one to the issuer.

pub mod certificate;
pub mod issuer;
pub mod originate;
pub mod provider;
pub mod session;
pub mod sni;
pub mod store;
pub mod system;

mod peer;
#[cfg(test)]
pub(crate) mod testing;
