//! The cryptography behind every TLS configuration: the one place that names the crate.
//!
//! Never installed as the process default, so that no configuration can pick up another one by accident.

use std::sync::{Arc, LazyLock};

use rustls::{
    SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    version::{TLS12, TLS13},
};

/// Versions inside the mesh, where both ends are ours.
pub const MESH_VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13];

/// Versions towards external servers.
pub const INTERNET_VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

/// The provider, shared by all configurations.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}
