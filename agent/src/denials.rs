//! Denials that are told where they are looked for: at the pod. What is told of them, and how often.
//!
//! `gateway::record` hands each one in, and never waits; `kubernetes::events` takes them out and writes them as events of the pod.
//! Knows nothing of Kubernetes' API.

mod limiter;
mod note;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::sync::mpsc;

pub use limiter::{Limiter, Told};

use crate::{
    hbone::baggage::PodName,
    mesh::{ObjectRef, SpiffeId},
    reason::Reason,
    telemetry::metrics::page::Page,
};

/// Denials that wait for their turn; what comes beyond is counted, and not told.
const QUEUE: usize = 1024;

/// One request or connection that was denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Whose; its namespace is that of the identity.
    pub pod: PodName,
    /// The verified identity.
    pub source: SpiffeId,
    /// Why.
    pub reason: Reason,
    /// What was asked for, as the workload wrote it; or the address that it dialled.
    pub host: String,
    /// The port that it dialled.
    pub port: u16,
    /// The method, of an HTTP request.
    pub method: Option<String>,
    /// The sentence behind it.
    pub detail: String,
    /// The object that decided it.
    pub object: Option<ObjectRef>,
}

/// What became of denials, counted.
#[derive(Debug, Default)]
struct Tally {
    written: AtomicU64,
    failed: AtomicU64,
    lost: AtomicU64,
}

/// Takes denials, and counts what becomes of them. Cheap to clone; by default nobody takes them out, and none is taken.
#[derive(Clone, Debug, Default)]
pub struct Denials {
    queue: Option<mpsc::Sender<Denial>>,
    tally: Arc<Tally>,
}

impl Denials {
    /// A queue, and its other end.
    pub fn queue() -> (Self, mpsc::Receiver<Denial>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self { queue: Some(sender), tally: Arc::default() }, receiver)
    }

    /// Somebody takes them out.
    pub fn are_told(&self) -> bool {
        self.queue.is_some()
    }

    /// One more. Never waits: where there is no room it is lost, and counted.
    pub fn offer(&self, denial: Denial) {
        if let Some(queue) = &self.queue
            && queue.try_send(denial).is_err()
        {
            self.lost(1);
        }
    }

    /// An event was written.
    pub fn written(&self) {
        self.tally.written.fetch_add(1, Relaxed);
    }

    /// An event could not be written.
    pub fn failed(&self) {
        self.tally.failed.fetch_add(1, Relaxed);
    }

    /// So many denials are in no event.
    pub fn lost(&self, denials: u64) {
        self.tally.lost.fetch_add(denials, Relaxed);
    }

    /// All of it.
    pub fn write_metrics(&self, page: &mut Page) {
        let Tally { written, failed, lost } = &*self.tally;
        let results = [("written", written), ("failed", failed)];
        page.counters(
            "egret_denial_events",
            "Events of pods about denials that were written (each also when its count is brought up to date), or could not be",
            results.map(|(result, count)| (vec![("result", result.to_owned())], count.load(Relaxed))),
        );
        page.counter(
            "egret_denial_events_lost",
            "Denials that no event tells of, because there were too many",
            lost.load(Relaxed),
        );
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::Denial;
    use crate::{
        hbone::baggage::PodName,
        mesh::{Kind, ObjectRef},
        reason::Reason,
    };

    /// A denial of a pod of this name, for a host.
    pub(crate) fn denial(pod: &str, host: &str) -> Denial {
        Denial {
            pod: PodName { name: pod.into(), uid: format!("uid-{pod}").into() },
            source: "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap(),
            reason: Reason::PolicyDenied,
            host: host.to_owned(),
            port: 80,
            method: Some("GET".to_owned()),
            detail: "denied by rule 0 of AuthorizationPolicy istio-system/no-admin".to_owned(),
            object: Some(ObjectRef::new(Kind::AuthorizationPolicy, "istio-system", "no-admin")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Denials, QUEUE, testing::denial};
    use crate::telemetry::metrics::{
        exposition::{Format, render},
        page::Page,
    };

    fn text(denials: &Denials) -> String {
        let mut page = Page::default();
        denials.write_metrics(&mut page);
        render(page.registry(), Format::Text)
    }

    #[test]
    fn nobody_waits_for_a_full_queue_and_what_is_lost_is_counted() {
        let (denials, mut queue) = Denials::queue();
        assert!(denials.are_told() && !Denials::default().are_told());
        for _ in 0..QUEUE + 7 {
            denials.offer(denial("web-1", "test.com"));
        }
        assert!(text(&denials).contains("egret_denial_events_lost_total 7\n"), "{}", text(&denials));
        let mut there = 0;
        while queue.try_recv().is_ok() {
            there += 1;
        }
        assert_eq!(there, QUEUE);
        drop(queue);
        denials.offer(denial("web-1", "test.com"));
        assert!(text(&denials).contains("egret_denial_events_lost_total 8\n"), "nobody is there any more");
        Denials::default().offer(denial("web-1", "test.com"));
    }
}
