//! What is written down about a TLS session and its certificates: for flow records.

use jiff::Timestamp;
use rustls::CommonState;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::flow::{CertificateName, TlsSession};

/// What both ends agreed on; none before the handshake is done.
pub fn of(connection: &CommonState) -> Option<TlsSession> {
    Some(TlsSession {
        tls_version: version(connection)?.into(),
        tls_cipher: connection.negotiated_cipher_suite()?.suite().as_str()?.into(),
    })
}

/// The version, as Envoy writes it.
pub fn version(connection: &CommonState) -> Option<&'static str> {
    connection.protocol_version().map(|version| match version {
        rustls::ProtocolVersion::TLSv1_2 => "TLSv1.2",
        rustls::ProtocolVersion::TLSv1_3 => "TLSv1.3",
        _ => "unknown",
    })
}

/// Serial number and end of a certificate (DER); none of what is no certificate.
pub fn name(certificate: &[u8]) -> Option<CertificateName> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let not_after = Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?;
    Some(CertificateName { serial: format!("{:x}", certificate.tbs_certificate.serial).into(), not_after })
}
