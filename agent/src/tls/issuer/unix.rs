//! The issuer behind a Unix socket: `egret ca` on the same machine.

use std::{
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::{net::UnixStream, time::timeout};
use tonic::{
    Request,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::{Error, Issuer};
use crate::{
    ca::protocol::{CREATE_CERTIFICATE, IstioCertificateRequest, IstioCertificateResponse, impersonating},
    mesh::SpiffeId,
    tls::certificate::WorkloadCertificate,
};

/// For the whole exchange; the CA is on this machine.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Asks the CA at a Unix socket. Connects anew each time, so that a CA that was restarted is found.
#[derive(Clone, Debug)]
pub struct UnixIssuer {
    socket: PathBuf,
}

impl UnixIssuer {
    /// The CA at `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    async fn request(&self, identity: &SpiffeId) -> Result<WorkloadCertificate, String> {
        let key = KeyPair::generate().map_err(|e| format!("no key could be made: {e}"))?;
        let request = IstioCertificateRequest {
            csr: signing_request(identity, &key).map_err(|e| format!("no request could be made: {e}"))?,
            validity_duration: 0,
            metadata: Some(impersonating(&identity.to_string())),
        };
        let response = exchange(&self.socket, request).await?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let certificate =
            WorkloadCertificate::from_pem(&response.cert_chain, key).map_err(|e| e.to_string())?;
        if certificate.identity() != identity {
            return Err(format!("it signed {} instead", certificate.identity()));
        }
        Ok(certificate)
    }
}

impl Issuer for UnixIssuer {
    fn issue<'a>(
        &'a self,
        identity: &'a SpiffeId,
    ) -> Pin<Box<dyn Future<Output = Result<WorkloadCertificate, Error>> + Send + 'a>> {
        Box::pin(async move {
            let result = timeout(TIMEOUT, self.request(identity)).await;
            result.unwrap_or_else(|_| Err("it did not answer in time".to_owned())).map_err(|why| {
                Error(format!(
                    "the CA at {} gave no certificate for {identity}: {why}",
                    self.socket.display()
                ))
            })
        })
    }
}

fn signing_request(identity: &SpiffeId, key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
    params.serialize_request(key)?.pem()
}

async fn exchange(
    socket: &Path,
    request: IstioCertificateRequest,
) -> Result<IstioCertificateResponse, String> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|e| format!("the socket cannot be reached ({e}); is `egret ca` running?"))?;
    let channel = channel(stream).await.map_err(|e| format!("the connection failed: {e}"))?;
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|e| format!("the connection failed: {e}"))?;
    let path = http::uri::PathAndQuery::from_static(CREATE_CERTIFICATE);
    client
        .unary(Request::new(request), path, ProstCodec::default())
        .await
        .map(tonic::Response::into_inner)
        // The CA closes the connections of callers it does not trust.
        .map_err(|status| match status.code() {
            tonic::Code::Unknown | tonic::Code::Unavailable => {
                format!(
                    "it closed the connection ({}); is this process root or the CA's user?",
                    status.message()
                )
            }
            _ => status.message().to_owned(),
        })
}

/// A channel over a connection that exists already.
async fn channel(stream: UnixStream) -> Result<Channel, tonic::transport::Error> {
    let mut stream = Some(stream);
    let connector = tower::service_fn(move |_: http::Uri| {
        let stream = stream.take().map(TokioIo::new);
        std::future::ready(stream.ok_or_else(|| std::io::Error::other("the connection was used already")))
    });
    // The address is never resolved; HTTP/2 needs some authority.
    Endpoint::from_static("http://egret-ca").connect_with_connector(connector).await
}
