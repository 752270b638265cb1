//! What the CA of a cluster says of itself.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, Router, extract::State, routing::get};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Readiness, Ready, base, metrics, server::Ask};
use crate::{
    ca::{Authority, Opening, Tally},
    kubernetes::standing::Standing,
    telemetry::metrics::page::Page,
};

/// The CA.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CaStatus {
    /// Process id.
    pub pid: u32,
    /// The trust domain it signs for, while it can.
    pub trust_domain: Option<String>,
    /// What is in the way, one sentence each.
    pub problems: Vec<String>,
    /// What was issued and what was refused, by name.
    pub counters: BTreeMap<String, u64>,
}

/// What that is made of.
#[derive(Clone)]
pub struct CaState {
    /// Whether it has keys.
    pub office: watch::Receiver<Opening>,
    /// How it stands with what it reads and writes.
    pub standing: Standing,
    /// What it did.
    pub tally: Arc<Tally>,
}

impl CaState {
    /// What it measures, when it says of itself what `ready` is.
    pub fn measure(&self, ready: &Ready) -> Page {
        let mut page = Page::default();
        metrics::role(&mut page, "ca", ready, Some(&self.standing));
        metrics::issued(&mut page, self.tally.counts());
        if let Some(Ok(office)) = &*self.office.borrow() {
            metrics::authority(&mut page, office.authority().not_after());
        }
        page
    }

    fn status(&self) -> CaStatus {
        let opening = self.office.borrow().clone();
        let mut problems = self.standing.problems();
        problems.extend(opening.as_ref().and_then(|opening| opening.as_ref().err()).cloned());
        CaStatus {
            pid: std::process::id(),
            trust_domain: opening
                .and_then(Result::ok)
                .map(|office| office.authority().trust_domain().to_owned()),
            problems,
            counters: self.tally.counts(),
        }
    }
}

/// The CA's: readiness, status and metrics.
pub fn ca(state: CaState, readiness: impl Ask) -> Router {
    let (measured, ready) = (state.clone(), readiness.clone());
    base(readiness).merge(metrics::measured(move || measured.measure(&ready()))).route(
        "/status",
        get(|State(state): State<CaState>| async move { Json(state.status()) }).with_state(state),
    )
}

/// The same of a CA whose keys are on this machine: it has them, or does not run.
pub fn authority(authority: Authority) -> Router {
    base(|| Readiness::default().ask()).merge(metrics::measured(move || measure_authority(&authority)))
}

/// What such a CA measures.
pub fn measure_authority(authority: &Authority) -> Page {
    let mut page = Page::default();
    metrics::role(&mut page, "ca", &Readiness::default().ask(), None);
    metrics::authority(&mut page, authority.not_after());
    page
}
