//! TLS and identities: certificates of workloads, verification, origination, and the issuer behind them.
//!
//! Only `provider` names the cryptography crate. Does not open sockets.

pub mod certificate;
pub mod issuer;
pub mod originate;
pub mod sni;
pub mod store;
