//! The issuer on the network: the replicas of `egret ca` on a cluster, which prove who they are by a certificate of their own, and
//! ask the caller for its service account's token.
//!
//! `app` hands in where they are and what to trust; who looks that up is none of our business.

use std::{
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    time::Duration,
};

use rand::seq::SliceRandom as _;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::Code;

use super::{
    Error, Issuer,
    exchange::{self, Asking},
};
use crate::{
    mesh::SpiffeId,
    tls::certificate::{WorkloadCertificate, client_without_certificate, explain},
};

/// For everything, waiting for the CA to appear included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// For one replica: another one has to have its turn within [`TIMEOUT`].
const REPLICA_TIMEOUT: Duration = Duration::from_secs(3);
/// Exchanges at a time: the CA accepts no more than a few connections of one address.
const CONCURRENT: usize = 8;

/// Where the CA is, who it must prove to be, and who asks.
pub struct Network {
    /// The CA as an operator knows it, such as `the Service istio-system/egret-ca`.
    pub name: String,
    /// The replicas that can be asked; `None` until they are known.
    pub replicas: watch::Receiver<Option<Vec<SocketAddr>>>,
    /// The root certificates of the mesh, PEM; `None` until they are known.
    pub roots: watch::Receiver<Option<String>>,
    /// The CA's identity.
    pub identity: SpiffeId,
    /// The file with our token. Read for every exchange, since tokens are replaced.
    pub token: PathBuf,
}

/// Asks the CA's replicas, one after the other in random order, until one answers.
pub struct NetworkIssuer {
    network: Network,
    turns: Semaphore,
}

/// Why one replica gave no certificate.
enum Failure {
    /// The others would say the same.
    Refused(String),
    /// Another one may do better.
    Broken(String),
}

impl NetworkIssuer {
    /// Nothing is asked yet.
    pub fn new(network: Network) -> Self {
        Self { network, turns: Semaphore::new(CONCURRENT) }
    }

    async fn request(&self, identity: &SpiffeId) -> Result<WorkloadCertificate, String> {
        let _turn = self.turns.acquire().await.map_err(|e| e.to_string())?;
        let roots = wait(&self.network.roots, |roots| !roots.is_empty()).await.ok_or(
            "its root certificate is not published; the CA does that when it has a key: see its log",
        )?;
        let roots = CertificateDer::pem_slice_iter(roots.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| format!("the published root certificates are not PEM ({e}); the CA repairs them"))?;
        let mut replicas = wait(&self.network.replicas, |replicas| !replicas.is_empty())
            .await
            .ok_or("no replica of it is ready: see the log and readiness of its pods")?;
        replicas.shuffle(&mut rand::rng());
        let token = read_token(&self.network.token).await?;
        let mut failures = Vec::new();
        for replica in replicas {
            let asked = timeout(REPLICA_TIMEOUT, self.ask(replica, identity, &roots, &token)).await;
            match asked.unwrap_or_else(|_| Err(Failure::Broken("no answer in time".to_owned()))) {
                Ok(certificate) => return Ok(certificate),
                Err(Failure::Refused(why)) => return Err(why),
                Err(Failure::Broken(why)) => failures.push(format!("{replica}: {why}")),
            }
        }
        Err(failures.join("; "))
    }

    async fn ask(
        &self,
        replica: SocketAddr,
        identity: &SpiffeId,
        roots: &[CertificateDer<'static>],
        token: &str,
    ) -> Result<WorkloadCertificate, Failure> {
        let asking = Asking::for_identity(identity).map_err(Failure::Broken)?;
        let config = client_without_certificate(roots, &self.network.identity)
            .map_err(|e| Failure::Broken(e.to_string()))?;
        let stream = TcpStream::connect(replica)
            .await
            .map_err(|e| Failure::Broken(format!("cannot be reached: {e}")))?;
        let stream = TlsConnector::from(config)
            .connect(ServerName::IpAddress(replica.ip().into()), stream)
            .await
            .map_err(|e| Failure::Broken(format!("TLS failed: {}", explain(e))))?;
        let chain =
            exchange::call(stream, asking.request().clone(), Some(token)).await.map_err(|status| {
                let why = status.message().to_owned();
                match status.code() {
                    Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument => {
                        Failure::Refused(why)
                    }
                    _ => Failure::Broken(why),
                }
            })?;
        WorkloadCertificate::from_pem_trusting(&chain, asking.into_key(), roots)
            .map_err(|e| Failure::Broken(e.to_string()))
    }
}

/// The value once it is there and `usable`, if that is soon enough to be of use.
async fn wait<T: Clone>(channel: &watch::Receiver<Option<T>>, usable: impl Fn(&T) -> bool) -> Option<T> {
    let mut channel = channel.clone();
    let there = channel.wait_for(|value| value.as_ref().is_some_and(&usable));
    timeout(REPLICA_TIMEOUT, there).await.ok()?.ok()?.clone()
}

async fn read_token(path: &Path) -> Result<String, String> {
    let read = tokio::fs::read_to_string(path).await;
    let token = read.map_err(|e| {
        format!(
            "our service account token {} cannot be read ({e}); the pod needs a projected volume with it, as the Helm \
             chart has",
            path.display()
        )
    })?;
    Ok(token.trim().to_owned())
}

impl Issuer for NetworkIssuer {
    fn issue<'a>(
        &'a self,
        identity: &'a SpiffeId,
    ) -> Pin<Box<dyn Future<Output = Result<WorkloadCertificate, Error>> + Send + 'a>> {
        Box::pin(async move {
            let result = timeout(TIMEOUT, self.request(identity)).await;
            result.unwrap_or_else(|_| Err("it did not answer in time".to_owned())).map_err(|why| {
                Error(format!("the CA ({}) gave no certificate for {identity}: {why}", self.network.name))
            })
        })
    }
}
