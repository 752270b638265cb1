//! Certificates by identity: fetched once, rotated before they expire, shared.
//!
//! Certificates end by the wall clock, which may jump; timers run by the monotonic one. So a renewal timer only decides when
//! to ask again, and whether a certificate may still be served is looked up in the wall clock each time.

mod status;

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    mesh::SpiffeId,
    tls::{
        certificate::WorkloadCertificate,
        issuer::{self, Issuer},
    },
};

pub use status::CertificateStatus;

/// Between the first and the second try to renew; doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_mins(1);

type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// What the task of an identity has come to: nothing yet, or its last certificate or error.
#[derive(Clone)]
enum State {
    Asking,
    Ready(Arc<WorkloadCertificate>),
    Failed(issuer::Error, Instant),
}

/// An identity that somebody asked for. Dropping it ends its task.
struct Entry {
    state: watch::Receiver<State>,
    _task: AbortOnDropHandle<()>,
}

struct Shared {
    issuer: Arc<dyn Issuer>,
    clock: Clock,
    entries: Mutex<HashMap<SpiffeId, Entry>>,
}

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct CertificateStore {
    shared: Arc<Shared>,
}

impl fmt::Debug for CertificateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateStore")
            .field("identities", &self.shared.entries.lock().len())
            .finish_non_exhaustive()
    }
}

impl CertificateStore {
    /// An empty store in front of `issuer`.
    pub fn new(issuer: Arc<dyn Issuer>) -> Self {
        Self::with_clock(issuer, Arc::new(SystemTime::now))
    }

    fn with_clock(issuer: Arc<dyn Issuer>, clock: Clock) -> Self {
        Self { shared: Arc::new(Shared { issuer, clock, entries: Mutex::default() }) }
    }

    /// The current certificate of `identity`; asks the issuer when there is none, once for all who wait. A certificate
    /// past two thirds of its life is renewed in the background while it is still served; an expired one never is.
    pub async fn fetch(&self, identity: &SpiffeId) -> Result<Arc<WorkloadCertificate>, issuer::Error> {
        let mut state = self.state_of(identity);
        let state = state.wait_for(|state| !matches!(state, State::Asking)).await;
        match state.map(|state| state.clone()) {
            Ok(State::Ready(certificate)) => Ok(certificate),
            Ok(State::Failed(error, _)) => Err(error),
            // The identity was forgotten while we waited, or the issuer panicked.
            Ok(State::Asking) | Err(_) => {
                Err(issuer::Error(format!("{identity} is no longer a workload's here")))
            }
        }
    }

    /// Drops the certificate of an identity that no workload here has any more.
    pub fn forget(&self, identity: &SpiffeId) {
        self.shared.entries.lock().remove(identity);
    }

    /// The state to wait on. Starts a task where there is none, or where the one there is has nothing to offer. A failure is
    /// told to everyone who comes within a second of it, so that a busy workload does not hammer an issuer that is down.
    fn state_of(&self, identity: &SpiffeId) -> watch::Receiver<State> {
        let now = (self.shared.clock)();
        let mut entries = self.shared.entries.lock();
        if let Some(entry) = entries.get(identity) {
            let usable = match &*entry.state.borrow() {
                State::Asking => entry.state.has_changed().is_ok(),
                State::Ready(certificate) => now < certificate.not_after(),
                State::Failed(_, at) => at.elapsed() < MIN_BACKOFF,
            };
            if usable {
                return entry.state.clone();
            }
        }
        let (sender, state) = watch::channel(State::Asking);
        let task =
            keep(Arc::clone(&self.shared.issuer), Arc::clone(&self.shared.clock), identity.clone(), sender);
        let entry = Entry { state: state.clone(), _task: AbortOnDropHandle::new(tokio::spawn(task)) };
        entries.insert(identity.clone(), entry);
        state
    }
}

/// Gets the certificate of one identity, and a new one whenever it is time. Ends when the first try fails.
async fn keep(issuer: Arc<dyn Issuer>, clock: Clock, identity: SpiffeId, state: watch::Sender<State>) {
    let mut certificate = match issue(&*issuer, &clock, &identity).await {
        Ok(certificate) => Arc::new(certificate),
        Err(error) => {
            tracing::warn!(%identity, %error, "no certificate");
            state.send_replace(State::Failed(error, Instant::now()));
            return;
        }
    };
    loop {
        state.send_replace(State::Ready(Arc::clone(&certificate)));
        tokio::time::sleep(until_renewal(&certificate, clock())).await;
        let mut backoff = MIN_BACKOFF;
        certificate = loop {
            match issue(&*issuer, &clock, &identity).await {
                Ok(certificate) => break Arc::new(certificate),
                Err(error) => {
                    let left = certificate.not_after().duration_since(clock()).unwrap_or_default();
                    tracing::warn!(%identity, %error, ?left, "certificate not renewed");
                }
            }
            tokio::time::sleep(jittered(backoff)).await;
            backoff = (backoff * 2).min(MAX_BACKOFF);
        };
    }
}

/// Asks for a certificate, and takes it only if it is the right one and can be used.
async fn issue(
    issuer: &dyn Issuer,
    clock: &Clock,
    identity: &SpiffeId,
) -> Result<WorkloadCertificate, issuer::Error> {
    let certificate = issuer.issue(identity).await?;
    if certificate.identity() != identity {
        return Err(issuer::Error(format!(
            "asked for {identity}, the issuer signed {}",
            certificate.identity()
        )));
    }
    if certificate.not_after() <= clock() {
        return Err(issuer::Error(format!(
            "the issuer's certificate for {identity} is expired; do the clocks of this machine and the issuer's agree?"
        )));
    }
    Ok(certificate)
}

/// Until two thirds of the life are over, give or take a twentieth of what is left, so that a node's workloads, which
/// started together, do not ask together for ever.
fn until_renewal(certificate: &WorkloadCertificate, now: SystemTime) -> Duration {
    let renew_at = certificate.not_after() - certificate.lifetime() / 3;
    jittered(renew_at.duration_since(now).unwrap_or_default()).max(MIN_BACKOFF)
}

/// Up to 5 % less.
fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(1.0 - rand::random::<f64>() * 0.05)
}

#[cfg(test)]
mod tests;
