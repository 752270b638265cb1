//! Istio's CA protocol (`istio.v1.auth.IstioCertificateService`), as both ends of ours speak it; istiod and ztunnel too.
//!
//! Written by hand from `security/v1alpha1/ca.proto` of istio/api: two messages do not need a protobuf compiler.

/// The one method.
pub(crate) const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// The metadata field by which a caller asks for the certificate of somebody else, as ztunnel does.
pub(crate) const IMPERSONATED_IDENTITY: &str = "ImpersonatedIdentity";

/// Asks for a certificate.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct IstioCertificateRequest {
    /// Certificate request, PEM.
    #[prost(string, tag = "1")]
    pub(crate) csr: String,
    /// Validity asked for, in seconds; 0 leaves it to the CA.
    #[prost(int64, tag = "3")]
    pub(crate) validity_duration: i64,
    /// Carries [`IMPERSONATED_IDENTITY`].
    #[prost(message, optional, tag = "4")]
    pub(crate) metadata: Option<prost_types::Struct>,
}

/// A certificate.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct IstioCertificateResponse {
    /// PEM, the leaf first, the root last.
    #[prost(string, repeated, tag = "1")]
    pub(crate) cert_chain: Vec<String>,
}

/// Metadata that asks for the certificate of `identity`.
pub(crate) fn impersonating(identity: &str) -> prost_types::Struct {
    let value = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(identity.to_owned())) };
    prost_types::Struct { fields: [(IMPERSONATED_IDENTITY.to_owned(), value)].into() }
}

/// Whose certificate the metadata asks for.
pub(crate) fn impersonated(metadata: Option<&prost_types::Struct>) -> Option<&str> {
    match &metadata?.fields.get(IMPERSONATED_IDENTITY)?.kind {
        Some(prost_types::value::Kind::StringValue(identity)) => Some(identity),
        _ => None,
    }
}
