//! The issuer behind a Unix socket: `egret ca` on the same machine.

use std::{future::Future, path::PathBuf, pin::Pin, time::Duration};

use tokio::{net::UnixStream, time::timeout};

use super::{
    Error, Issuer,
    exchange::{self, Asking},
};
use crate::{mesh::SpiffeId, tls::certificate::WorkloadCertificate};

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
        let asking = Asking::for_identity(identity)?;
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|e| format!("the socket cannot be reached ({e}); is `egret ca` running?"))?;
        let chain = exchange::call(stream, asking.request().clone(), None).await.map_err(|status| {
            match status.code() {
                // The CA closes the connections of callers it does not trust.
                tonic::Code::Unknown | tonic::Code::Unavailable => format!(
                    "it closed the connection ({}); is this process root or the CA's user?",
                    status.message()
                ),
                _ => status.message().to_owned(),
            }
        })?;
        let certificate =
            WorkloadCertificate::from_pem(&chain, asking.into_key()).map_err(|e| e.to_string())?;
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
