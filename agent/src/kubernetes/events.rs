//! Writes denials as events of their pods (`events.k8s.io/v1`), so that `kubectl describe pod` shows them. Never in the way of what it
//! tells of.
//!
//! `app::gateway` runs it. What is told, and how often, is `denials`' business. Not kube's `Recorder`: it counts what was published, one by
//! one, and takes denials of different hosts for the same.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
    core::Status,
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    denials::{Denial, Denials, Limiter, Told},
    kubernetes::Cluster,
};

/// How it stands is kept under this name.
const NAME: &str = "events of pods";
/// Who writes them, as the API calls it.
const CONTROLLER: &str = "egret.dev/gateway";
/// What denials are called, and what was denied.
const REASON: &str = "EgressDenied";
const ACTION: &str = "Egress";
/// How often counts that changed are looked for.
const LOOK: Duration = Duration::from_secs(1);
/// For one request to the API. Meanwhile the queue takes what comes.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest name of a pod that goes into that of an event, which is a DNS subdomain (RFC 1123): 253 characters.
const LONGEST_POD: usize = 230;
/// Longest name of who writes it.
const LONGEST_INSTANCE: usize = 128;

/// Writes what comes out of the queue until its other ends are gone.
pub async fn write(cluster: Cluster, mut queue: mpsc::Receiver<Denial>, denials: Denials) {
    cluster.standing.is_read(NAME);
    let mut limiter = Limiter::new(Instant::now(), rand::random());
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let told: Vec<Told> = tokio::select! {
            denial = queue.recv() => match denial {
                Some(denial) => limiter.offer(Instant::now(), denial).into_iter().collect(),
                None => return,
            },
            _ = looks.tick() => limiter.due(Instant::now()),
        };
        denials.lost(limiter.take_lost());
        for one in told {
            match write_one(&cluster, &one).await {
                Ok(()) => {
                    denials.written();
                    if cluster.standing.is_well(NAME) {
                        tracing::info!("{NAME}: written again");
                    }
                }
                Err(problem) => {
                    denials.failed();
                    limiter.failed(&one);
                    if cluster.standing.fails(NAME, problem.clone()) {
                        tracing::warn!("{NAME} cannot be written, while denials are as before: {problem}");
                    }
                }
            }
        }
    }
}

async fn write_one(cluster: &Cluster, told: &Told) -> Result<(), String> {
    let events = Api::<Event>::namespaced(cluster.client.clone(), told.denial.source.namespace());
    let written = async {
        let now = Timestamp::now();
        if told.count > 1 {
            // Nothing but the series of an event may be changed.
            let series = serde_json::json!({"series": series(told.count, now)});
            match events.patch(&name(told), &PatchParams::default(), &Patch::Merge(series)).await {
                // It was never made, or the API server let it go.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => return other.map(drop),
            }
        }
        events.create(&PostParams::default(), &event(told, &cluster.own.name, now)).await.map(drop)
    };
    match timeout(PATIENCE, written).await {
        Ok(Ok(())) => Ok(()),
        // The namespace goes, or is gone, and the pod with it.
        Ok(Err(kube::Error::Api(status))) if status.code == 404 || is_terminating(&status) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => Err(format!(
            "{}; give the service account this permission (the Helm chart does), or write none (gateway.events: false)",
            status.message
        )),
        // It exists: the answer to an earlier try was lost. Its count is brought up to date with the next one.
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(()),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err(format!("the API server does not answer within {PATIENCE:?}")),
    }
}

/// The API server refuses new objects in such a namespace as if they were forbidden.
fn is_terminating(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

fn name(told: &Told) -> String {
    let mut name: String = told.denial.pod.name.chars().take(LONGEST_POD).collect();
    // Writing to a string cannot fail.
    let _ = write!(name, ".{:016x}", told.id);
    name
}

fn series(count: u64, now: Timestamp) -> EventSeries {
    EventSeries { count: i32::try_from(count).unwrap_or(i32::MAX), last_observed_time: MicroTime(now) }
}

fn event(told: &Told, instance: &str, now: Timestamp) -> Event {
    let Denial { pod, source, object, .. } = &told.denial;
    let namespace = source.namespace();
    let regarding = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some(pod.name.to_string()),
        namespace: Some(namespace.to_owned()),
        uid: Some(pod.uid.to_string()),
        ..ObjectReference::default()
    };
    let related = object.as_ref().map(|object| ObjectReference {
        kind: Some(object.kind.to_string()),
        name: Some(object.name.to_string()),
        namespace: Some(object.namespace.to_string()),
        ..ObjectReference::default()
    });
    Event {
        metadata: ObjectMeta {
            name: Some(name(told)),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        type_: Some("Warning".to_owned()),
        reason: Some(REASON.to_owned()),
        action: Some(ACTION.to_owned()),
        note: Some(told.denial.note()),
        regarding: Some(regarding),
        related,
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(instance.chars().take(LONGEST_INSTANCE).collect()),
        series: (told.count > 1).then(|| series(told.count, now)),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::denials::testing::denial;

    #[test]
    fn an_event_is_about_the_pod_and_names_the_policy() {
        let mut told = Told { denial: denial("web-1", "test.com"), id: 255, count: 1, news: 1 };
        let now: Timestamp = "2026-11-27T10:00:00Z".parse().unwrap();
        let first = serde_json::to_value(event(&told, "gateway-1", now)).unwrap();
        let expected = json!({
            "apiVersion": "events.k8s.io/v1", "kind": "Event",
            "metadata": {"name": "web-1.00000000000000ff", "namespace": "shop"},
            "type": "Warning", "reason": "EgressDenied", "action": "Egress", "note": told.denial.note(),
            "eventTime": "2026-11-27T10:00:00.000000Z",
            "regarding": {"apiVersion": "v1", "kind": "Pod", "name": "web-1", "namespace": "shop", "uid": "uid-web-1"},
            "related": {"kind": "AuthorizationPolicy", "name": "no-admin", "namespace": "istio-system"},
            "reportingController": "egret.dev/gateway", "reportingInstance": "gateway-1",
        });
        assert_eq!(first, expected);
        told.count = 25;
        let again = serde_json::to_value(event(&told, "gateway-1", now)).unwrap();
        assert_eq!(again["series"], json!({"count": 25, "lastObservedTime": "2026-11-27T10:00:00.000000Z"}));
    }

    #[test]
    fn no_name_is_too_long_for_the_api() {
        let mut told = Told { denial: denial(&"p".repeat(253), "test.com"), id: u64::MAX, count: 1, news: 1 };
        assert!(name(&told).len() <= 253);
        told.denial.pod.name = "web-1".into();
        assert_eq!(name(&told), "web-1.ffffffffffffffff");
    }
}
