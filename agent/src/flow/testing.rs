//! Made-up legs.

use std::sync::Arc;

use super::{TlsSession, TunnelConnection, TunnelLeg};

/// A tunnel that took so many microseconds to open.
pub(crate) fn tunnel(setup_us: Option<u64>) -> TunnelLeg {
    let connection = TunnelConnection {
        gateway: ([127, 0, 0, 1], 15008).into(),
        established_us: None,
        tls: Some(TlsSession {
            tls_version: "TLSv1.3".into(),
            tls_cipher: "TLS13_AES_128_GCM_SHA256".into(),
        }),
        certificate: None,
    };
    TunnelLeg { connection: Arc::new(connection), reused: None, certificate_us: None, setup_us, tcp: None }
}
