//! A TLS credential out of a Kubernetes Secret, as raw PEM; `tls::originate` parses it and says what is wrong with it.

use std::fmt;

use super::ObjectRef;

/// The PEM parts of one Secret. Which keys they came from is `source`'s business.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credential {
    /// The Secret.
    pub object: ObjectRef,
    /// Certificate chain, leaf first (`tls.crt` or `cert`).
    pub certificate: Option<Vec<u8>>,
    /// Private key (`tls.key` or `key`).
    pub key: Option<Vec<u8>>,
    /// Certificate authorities to verify the server with (`ca.crt` or `cacert`).
    pub ca: Option<Vec<u8>>,
    /// Certificate revocation lists (`ca.crl` or `crl`).
    pub crl: Option<Vec<u8>>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the key: this type ends up in logs and assertion messages.
        f.debug_struct("Credential").field("object", &self.object).finish_non_exhaustive()
    }
}
