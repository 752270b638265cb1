//! Verification of the other end of a tunnel: chain to the mesh roots, and exactly one SPIFFE identity (SPIFFE X509-SVID
//! §2 and §5.2). Used by `certificate` only.

use std::{fmt, io, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    prelude::{FromDer as _, X509Version},
};

use crate::{mesh::SpiffeId, tls::provider::provider};

/// Why a certificate carries no usable identity.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum IdentityFault {
    /// Not a certificate.
    #[error("it is not a valid X.509 certificate")]
    Malformed,
    /// `cA` or `keyCertSign`: a signing certificate is no workload's.
    #[error("it may sign other certificates, so it is no workload's")]
    Authority,
    /// Not exactly one URI SAN.
    #[error("it has {0} URI names instead of exactly one")]
    UriNames(usize),
    /// The URI SAN is no workload identity.
    #[error("{0}")]
    NotWorkload(#[from] crate::mesh::IdentityError),
    /// Another trust domain than ours.
    #[error("{0} belongs to another trust domain than {1}")]
    ForeignTrustDomain(SpiffeId, String),
    /// Valid, but not the identity that was dialled.
    #[error("it is the certificate of {found}, not of {expected}")]
    Other {
        /// Whose it is.
        found: SpiffeId,
        /// Whose it should be.
        expected: SpiffeId,
    },
}

impl fmt::Debug for IdentityFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // rustls prints the faults of verifiers in this form only.
        fmt::Display::fmt(self, f)
    }
}

/// The identity in a certificate.
pub(super) fn identity_in(certificate: &[u8]) -> Result<SpiffeId, IdentityFault> {
    let (rest, certificate) = X509Certificate::from_der(certificate).map_err(|_| IdentityFault::Malformed)?;
    if !rest.is_empty() || certificate.version() != X509Version::V3 {
        return Err(IdentityFault::Malformed);
    }
    // These getters fail on a repeated extension, which must not count as an absent one.
    let constraints = certificate.basic_constraints().map_err(|_| IdentityFault::Malformed)?;
    let usage = certificate.key_usage().map_err(|_| IdentityFault::Malformed)?;
    if constraints.is_some_and(|c| c.value.ca) || usage.is_some_and(|u| u.value.key_cert_sign()) {
        return Err(IdentityFault::Authority);
    }
    let names = certificate.subject_alternative_name().map_err(|_| IdentityFault::Malformed)?;
    let mut uris = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Ok(uri.parse()?),
        (None, _) => Err(IdentityFault::UriNames(0)),
        (Some(_), Some(_)) => Err(IdentityFault::UriNames(2 + uris.count())),
    }
}

/// The fault that `error` of a handshake is about, if it is one of ours.
pub(super) fn fault_in(error: &io::Error) -> Option<&IdentityFault> {
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::InvalidCertificate(CertificateError::Other(fault)) => fault.0.downcast_ref(),
        _ => None,
    }
}

fn refuse(fault: IdentityFault) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(fault))))
}

/// Accepts one server: the gateway that was dialled.
pub(super) struct ExpectServer {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) server: SpiffeId,
}

impl fmt::Debug for ExpectServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExpectServer").field("server", &self.server).finish_non_exhaustive()
    }
}

fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

fn no_tls12() -> Error {
    // The mesh speaks TLS 1.3 only, so rustls never asks.
    Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOfferedOrEnabled)
}

impl ExpectServer {
    /// Chain, validity and the server-auth usage; then the name, which is the SPIFFE identity.
    pub(super) fn check(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            algorithms().all,
        )?;
        let found = identity_in(end_entity).map_err(refuse)?;
        if found != self.server {
            return Err(refuse(IdentityFault::Other { found, expected: self.server.clone() }));
        }
        Ok(())
    }
}

impl ServerCertVerifier for ExpectServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
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

/// Accepts every workload of one trust domain.
#[derive(Debug)]
pub(super) struct ExpectWorkload {
    chain: Arc<dyn ClientCertVerifier>,
    trust_domain: String,
}

impl ExpectWorkload {
    /// Fails when there are no roots.
    pub(super) fn new(roots: Arc<RootCertStore>, trust_domain: &str) -> Result<Self, String> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots, provider())
            .build()
            .map_err(|e| e.to_string())?;
        Ok(Self { chain, trust_domain: trust_domain.to_owned() })
    }
}

impl ClientCertVerifier for ExpectWorkload {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        let found = identity_in(end_entity).map_err(refuse)?;
        if found.trust_domain() != self.trust_domain {
            return Err(refuse(IdentityFault::ForeignTrustDomain(found, self.trust_domain.clone())));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
