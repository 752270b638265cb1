//! One exchange of Istio's CA protocol, whatever it runs over: the key and its signing request, the call, and the certificate in
//! the answer. Used by the issuers here, and by the CA for its own certificate. Opens no connection.

use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::{
    Request, Status,
    client::Grpc,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use crate::{
    ca::protocol::{CREATE_CERTIFICATE, IstioCertificateRequest, IstioCertificateResponse, impersonating},
    mesh::SpiffeId,
};

/// A fresh key, and the request to have it certified.
pub(crate) struct Asking {
    key: KeyPair,
    request: IstioCertificateRequest,
}

impl Asking {
    /// For a certificate of `identity`.
    pub(crate) fn for_identity(identity: &SpiffeId) -> Result<Self, String> {
        let key = KeyPair::generate().map_err(|e| format!("no key could be made: {e}"))?;
        let request = IstioCertificateRequest {
            csr: signing_request(identity, &key).map_err(|e| format!("no request could be made: {e}"))?,
            validity_duration: 0,
            metadata: Some(impersonating(&identity.to_string())),
        };
        Ok(Self { key, request })
    }

    /// The message to send.
    pub(crate) fn request(&self) -> &IstioCertificateRequest {
        &self.request
    }

    /// The key that the certificate in the answer is for.
    pub(crate) fn into_key(self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }
}

fn signing_request(identity: &SpiffeId, key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
    params.serialize_request(key)?.pem()
}

/// Sends `request` over a connection that exists already, with `token` as the caller's credentials. The chain in the answer.
pub(super) async fn call<IO>(
    io: IO,
    request: IstioCertificateRequest,
    token: Option<&str>,
) -> Result<Vec<String>, Status>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |e: tonic::transport::Error| Status::unavailable(format!("the connection failed: {e}"));
    let mut request = Request::new(request);
    if let Some(token) = token {
        let credentials = MetadataValue::try_from(format!("Bearer {token}"))
            .map_err(|_| Status::invalid_argument("the token has characters that no token has"))?;
        request.metadata_mut().insert("authorization", credentials);
    }
    let mut client = Grpc::new(channel(io).await.map_err(broken)?);
    client.ready().await.map_err(broken)?;
    let path = http::uri::PathAndQuery::from_static(CREATE_CERTIFICATE);
    let response = client.unary(request, path, ProstCodec::default()).await?;
    let response: IstioCertificateResponse = response.into_inner();
    Ok(response.cert_chain)
}

/// A channel over a connection that exists already.
async fn channel<IO>(io: IO) -> Result<Channel, tonic::transport::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut io = Some(io);
    let connector = tower::service_fn(move |_: http::Uri| {
        let io = io.take().map(TokioIo::new);
        std::future::ready(io.ok_or_else(|| std::io::Error::other("the connection was used already")))
    });
    // The address is never resolved; HTTP/2 needs some authority.
    Endpoint::from_static("http://egret-ca").connect_with_connector(connector).await
}
