//! The one method of the CA protocol on the server's side: gRPC around a decision that others take.

use std::{convert::Infallible, future::Future, time::Duration};

use hyper::body::Incoming;
use tonic::{Request, Response, Status, server::Grpc};
use tonic_prost::ProstCodec;

use super::{
    Authority,
    protocol::{CREATE_CERTIFICATE, IstioCertificateRequest, IstioCertificateResponse},
};
use crate::mesh::SpiffeId;

/// A message; a signing request takes less than one KiB.
const MAX_MESSAGE: usize = 64 << 10;

/// Answers a request; `create` is asked for the certificate.
pub(super) async fn respond<F, Fut>(
    request: http::Request<Incoming>,
    create: F,
) -> Result<http::Response<tonic::body::Body>, Infallible>
where
    F: Fn(Request<IstioCertificateRequest>) -> Fut,
    Fut: Future<Output = Result<IstioCertificateResponse, Status>> + Send + 'static,
{
    if request.uri().path() != CREATE_CERTIFICATE {
        return Ok(Status::unimplemented("this CA knows CreateCertificate only").into_http());
    }
    let method = tower::service_fn(|request| {
        let creating = create(request);
        async move { creating.await.map(Response::new) }
    });
    let mut grpc = Grpc::new(ProstCodec::default()).apply_max_message_size_config(Some(MAX_MESSAGE), None);
    Ok(grpc.unary(method, request).await)
}

/// Signs what `request` brings, for `identity`. Its own names mean nothing.
pub(super) fn sign(
    authority: &Authority,
    identity: &SpiffeId,
    request: &IstioCertificateRequest,
) -> Result<IstioCertificateResponse, Status> {
    if identity.trust_domain() != authority.trust_domain() {
        return Err(Status::permission_denied(format!(
            "{identity} is not signed here: this CA's trust domain is {}",
            authority.trust_domain()
        )));
    }
    let validity = u64::try_from(request.validity_duration).ok().filter(|&s| s > 0).map(Duration::from_secs);
    let cert_chain = authority
        .sign(identity, &request.csr, validity)
        .map_err(|e| Status::invalid_argument(e.to_string()))?;
    tracing::info!(%identity, "certificate issued");
    Ok(IstioCertificateResponse { cert_chain })
}
