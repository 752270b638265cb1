//! Verification of external servers: chain, revocation, name (design D14).

use std::{fmt, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::server_name;
use crate::tls::provider::provider;

/// A name of which the server's certificate must bear one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExpectedName {
    /// DNS name or IP address; a wildcard in the certificate covers one label (RFC 6125 §6.4.3).
    Server(ServerName<'static>),
    /// Anything else that `subjectAltNames` may list, compared as written: URI (such as a SPIFFE id) or wildcard DNS name.
    Literal(String),
}

impl ExpectedName {
    /// An entry of `subjectAltNames`. One that no certificate can bear never matches, so it fails closed.
    pub(super) fn parse(name: &str) -> Self {
        if name.contains("://") || name.starts_with("*.") {
            return Self::Literal(name.to_owned());
        }
        server_name(name).map_or_else(|| Self::Literal(name.to_owned()), Self::Server)
    }

    fn is_borne_by(&self, certificate: &EndEntityCert<'_>) -> bool {
        match self {
            Self::Server(name) => certificate.verify_is_valid_for_subject_name(name).is_ok(),
            Self::Literal(name) if name.contains("://") => {
                certificate.valid_uri_names().any(|uri| uri == name)
            }
            Self::Literal(name) => certificate.valid_dns_names().any(|dns| dns.eq_ignore_ascii_case(name)),
        }
    }
}

impl fmt::Display for ExpectedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(name) => f.write_str(&name.to_str()),
            Self::Literal(name) => f.write_str(name),
        }
    }
}

/// The certificate is good, and for somebody else.
#[derive(Clone, thiserror::Error)]
#[error("the server's certificate is for {presented}, not for {expected}")]
pub(super) struct NameMismatch {
    expected: String,
    presented: String,
}

impl fmt::Debug for NameMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // rustls prints the faults of verifiers in this form only.
        fmt::Display::fmt(self, f)
    }
}

/// A fault that rustls has no name for.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct ChainFault(pub(super) webpki::Error);

/// Accepts what chains to `roots`, is not revoked and bears one of `names`.
pub(super) struct ExpectUpstream {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) names: Vec<ExpectedName>,
    pub(super) crls: Arc<[CertRevocationList<'static>]>,
}

impl fmt::Debug for ExpectUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExpectUpstream").field("names", &self.names).finish_non_exhaustive()
    }
}

impl ExpectUpstream {
    fn verify_chain(
        &self,
        certificate: &EndEntityCert<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), webpki::Error> {
        let crls: Vec<&CertRevocationList<'_>> = self.crls.iter().collect();
        // With lists: the server's own certificate must be covered by one that is up to date. CAs between it and the root
        // are checked where a list covers them; Istio's credentials rarely hold lists for those.
        let policies = match RevocationOptionsBuilder::new(&crls) {
            Err(_) => vec![None],
            Ok(builder) => {
                let builder = builder.with_expiration_policy(ExpirationPolicy::Enforce);
                vec![
                    Some(builder.with_depth(RevocationCheckDepth::EndEntity).build()),
                    Some(builder.with_status_policy(UnknownStatusPolicy::Allow).build()),
                ]
            }
        };
        for revocation in policies {
            certificate.verify_for_usage(
                algorithms().all,
                &self.roots.roots,
                intermediates,
                now,
                KeyUsage::server_auth(),
                revocation,
                None,
            )?;
        }
        Ok(())
    }
}

impl ServerCertVerifier for ExpectUpstream {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = EndEntityCert::try_from(end_entity).map_err(chain_error)?;
        self.verify_chain(&certificate, intermediates, now).map_err(chain_error)?;
        if self.names.iter().any(|name| name.is_borne_by(&certificate)) {
            return Ok(ServerCertVerified::assertion());
        }
        let presented: Vec<&str> =
            certificate.valid_dns_names().chain(certificate.valid_uri_names()).take(10).collect();
        let expected: Vec<String> = self.names.iter().map(ToString::to_string).collect();
        let mismatch = NameMismatch {
            expected: expected.join(" or "),
            presented: if presented.is_empty() { "no name at all".to_owned() } else { presented.join(", ") },
        };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(mismatch)))))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

fn chain_error(error: webpki::Error) -> Error {
    Error::InvalidCertificate(match error {
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::CertRevoked => CertificateError::Revoked,
        webpki::Error::CertExpired { time, not_after } => {
            CertificateError::ExpiredContext { time, not_after }
        }
        webpki::Error::CertNotValidYet { time, not_before } => {
            CertificateError::NotValidYetContext { time, not_before }
        }
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        other => CertificateError::Other(OtherError(Arc::new(ChainFault(other)))),
    })
}

/// Accepts every certificate: `insecureSkipVerify`. The server must still have the key to it.
#[derive(Debug)]
pub(super) struct AcceptAny;

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        algorithms().supported_schemes()
    }
}
