//! How a role does, for the probes of a kubelet: alive, ready, draining. Gateway and CA serve it; on a machine nobody asks.
//!
//! `/healthz/live` is answered as long as the process works. `/healthz/ready` is 200 only while the role serves; else 503, with one
//! sentence for each thing that it waits for: `kubectl describe pod` shows them. Who serves says below what is not as it should be. Decides nothing: the role says what it lacks.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use axum::{Router, extract::State, http::StatusCode, routing::get};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::listen::listen;
use crate::{
    admin::{self, Stage},
    kubernetes::standing::Standing,
};

/// What a role says of itself. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Health {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// What is missing, by its name.
    lacking: BTreeMap<&'static str, String>,
    /// What is read from the Kubernetes API.
    standing: Option<Standing>,
    draining: bool,
}

/// How a role does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not ready yet, or not any more: one sentence for each thing that is missing.
    Lacking(Vec<String>),
    /// It serves; one sentence for each thing that is not as it should be.
    Ready(Vec<String>),
    /// It was told to end, and finishes what it has.
    Draining,
}

impl Health {
    /// A role that is starting, and waits for all of `parts`.
    pub(super) fn waiting_for(parts: &[&'static str]) -> Self {
        let health = Self::default();
        for part in parts {
            health.lacks(part, "not there yet");
        }
        health
    }

    /// Counts what was never read from the Kubernetes API as missing, too.
    pub(super) fn follow(&self, standing: Standing) {
        self.shared.lock().standing = Some(standing);
    }

    /// `part` is missing, and why. Whether that is news.
    pub(super) fn lacks(&self, part: &'static str, why: &str) -> bool {
        let sentence = format!("{part}: {why}");
        self.shared.lock().lacking.insert(part, sentence.clone()) != Some(sentence)
    }

    /// `part` is there.
    pub(super) fn has(&self, part: &str) {
        self.shared.lock().lacking.remove(part);
    }

    /// The role was told to end. There is no way back.
    pub(super) fn drains(&self) {
        self.shared.lock().draining = true;
    }

    pub(super) fn phase(&self) -> Phase {
        let shared = self.shared.lock();
        if shared.draining {
            return Phase::Draining;
        }
        let mut lacking: Vec<_> = shared.lacking.values().cloned().collect();
        let of_cluster = shared.standing.iter().flat_map(Standing::problems).collect();
        // What was read once stays in force: the API server may be away.
        if shared.standing.as_ref().is_none_or(Standing::is_complete) && lacking.is_empty() {
            return Phase::Ready(of_cluster);
        }
        lacking.extend(of_cluster);
        Phase::Lacking(lacking)
    }

    /// The same for whoever asks the admin socket.
    pub(super) fn asker(&self) -> impl Fn() -> admin::Ready + Clone + Send + Sync + 'static {
        let health = self.clone();
        move || {
            let (stage, problems) = match health.phase() {
                Phase::Lacking(problems) => (Stage::Starting, problems),
                Phase::Ready(remarks) => (Stage::Serving, remarks),
                Phase::Draining => (Stage::Draining, Vec::new()),
            };
            admin::Ready { ready: stage == Stage::Serving, pid: std::process::id(), stage, problems }
        }
    }

    /// Answers probes at `address` until `stop`, in a task of its own.
    pub(super) fn serve(&self, address: SocketAddr, stop: CancellationToken) -> anyhow::Result<()> {
        let listener = listen(address).with_context(|| {
            format!("probes cannot be answered on {address}: choose another address with --health-address")
        })?;
        let served = axum::serve(listener, self.router()).with_graceful_shutdown(stop.cancelled_owned());
        tokio::spawn(async move {
            if let Err(e) = served.await {
                tracing::error!("probes are not answered any more: {e}");
            }
        });
        Ok(())
    }

    fn router(&self) -> Router {
        Router::new()
            .route(
                "/healthz/live",
                get(|State(health): State<Self>| async move {
                    // Whoever answers is alive: what is missing does not come by starting again.
                    (StatusCode::OK, format!("alive; {}", describe(&health.phase())))
                }),
            )
            .route(
                "/healthz/ready",
                get(|State(health): State<Self>| async move {
                    let phase = health.phase();
                    let status = match phase {
                        Phase::Ready(_) => StatusCode::OK,
                        Phase::Lacking(_) | Phase::Draining => StatusCode::SERVICE_UNAVAILABLE,
                    };
                    (status, describe(&phase))
                }),
            )
            .with_state(self.clone())
    }
}

/// The body of an answer: what it is in the first line, the reasons below.
fn describe(phase: &Phase) -> String {
    let (first, reasons) = match phase {
        Phase::Ready(remarks) => ("ready", &remarks[..]),
        Phase::Draining => ("draining: it was told to end, and finishes what it has", &[][..]),
        Phase::Lacking(reasons) => ("not ready", &reasons[..]),
    };
    reasons.iter().fold(format!("{first}\n"), |text, reason| text + reason + "\n")
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::{Health, Phase};
    use crate::kubernetes::standing::Standing;

    async fn ask(health: &Health, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = health.router().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn alive_ready_and_draining_are_told_apart() {
        let health = Health::waiting_for(&["configuration", "certificate"]);
        assert!(health.lacks("certificate", "the CA cannot be reached"));
        assert!(!health.lacks("certificate", "the CA cannot be reached"), "the same again is no news");
        let (status, body) = ask(&health, "/healthz/ready").await;
        assert_eq!(status, 503);
        assert_eq!(body, "not ready\ncertificate: the CA cannot be reached\nconfiguration: not there yet\n");
        assert_eq!(ask(&health, "/healthz/live").await.0, 200);

        health.has("certificate");
        assert!(matches!(health.phase(), Phase::Lacking(reasons) if reasons.len() == 1));
        health.has("configuration");
        assert_eq!(ask(&health, "/healthz/ready").await, (200, "ready\n".to_owned()));

        health.drains();
        let (status, body) = ask(&health, "/healthz/ready").await;
        assert_eq!(status, 503);
        assert!(body.starts_with("draining"), "{body}");
        let (status, body) = ask(&health, "/healthz/live").await;
        assert_eq!(status, 200);
        assert!(body.starts_with("alive; draining"), "{body}");
    }

    #[tokio::test]
    async fn what_is_lost_later_is_said_until_it_is_back() {
        let health = Health::waiting_for(&[]);
        assert_eq!(health.phase(), Phase::Ready(Vec::new()));
        health.lacks("certificate", "expired");
        assert_eq!(ask(&health, "/healthz/ready").await.0, 503);
        health.has("certificate");
        assert_eq!(ask(&health, "/healthz/ready").await.0, 200);
        assert_eq!(ask(&health, "/anything").await.0, 404);
    }

    #[tokio::test]
    async fn what_is_missing_in_the_cluster_is_said_by_who_serves_without_it() {
        let (health, standing) = (Health::waiting_for(&[]), Standing::default());
        health.follow(standing.clone());
        standing.expect("Gateway");
        assert_eq!(
            ask(&health, "/healthz/ready").await,
            (503, "not ready\nGateway: not read yet\n".to_owned())
        );
        standing.is_absent("Gateway", "no such kind");
        assert_eq!(ask(&health, "/healthz/ready").await, (200, "ready\nGateway: no such kind\n".to_owned()));
        assert_eq!(health.asker()().problems, ["Gateway: no such kind"]);
        standing.is_read("Gateway");
        assert_eq!(ask(&health, "/healthz/ready").await, (200, "ready\n".to_owned()));
    }
}
