//! What was refused or failed at the gateway, by reason, and by the object and rule behind it.

use std::sync::Arc;

use prometheus_client::{encoding::EncodeLabelSet, metrics::counter::Counter};

use super::{
    bounded::{Bounded, Labels, OTHER},
    page::Page,
};

/// Series of refusals.
const MOST: usize = 500;

/// Refusals that are alike.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
pub struct RefusalLabels {
    /// `denied` or `failed`.
    pub verdict: &'static str,
    /// A `Reason`, as in the access log.
    pub reason: &'static str,
    /// The object behind it, such as `AuthorizationPolicy istio-system/test`; empty where there is none.
    pub object: Arc<str>,
    /// The number of its rule, from 0; empty where there is none.
    pub rule: Arc<str>,
    /// Namespace of the workload.
    pub source_workload_namespace: Arc<str>,
}

impl Labels for RefusalLabels {
    fn other() -> Self {
        let other: Arc<str> = OTHER.into();
        Self {
            verdict: OTHER,
            reason: OTHER,
            object: Arc::clone(&other),
            rule: Arc::clone(&other),
            source_workload_namespace: other,
        }
    }
}

/// All of one gateway. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Refusals(Bounded<RefusalLabels, Counter>);

impl Default for Refusals {
    fn default() -> Self {
        Self(Bounded::new(MOST, Counter::default))
    }
}

impl Refusals {
    /// One more.
    pub fn count(&self, labels: &RefusalLabels) {
        self.0.series(labels).inc();
    }

    /// How often one did not fit.
    pub fn overflow(&self) -> u64 {
        self.0.overflow()
    }

    /// All of them.
    pub fn write(&self, page: &mut Page) {
        page.registry().register(
            "egret_refusals",
            "Requests and connections that the gateway refused, or that failed, by reason and by the object behind it",
            self.0.view(|counter| counter),
        );
    }
}
