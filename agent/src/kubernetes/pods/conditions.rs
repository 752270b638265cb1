//! Writes the condition `egret.dev/Captured` of pods, so that `kubectl` shows it. Never in the way of what it tells of.
//!
//! `app::agent` runs it. What to say is `node::pods`' business.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod as Object;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;

use crate::{
    kubernetes::{Cluster, names::CAPTURED},
    node::pods::{Condition, Pod, Said, Verdicts},
};

/// How it stands is kept under this name.
const NAME: &str = "the conditions of pods";
/// Waits between tries while something is in the way: doubled up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How often the last word is tried.
const LAST_TRIES: u32 = 5;

/// Writes what is said of each pod, where it says something else, until `stop`. `failed` is called for every write that failed.
pub async fn write(
    cluster: Cluster,
    mut verdicts: watch::Receiver<Arc<Verdicts>>,
    failed: impl Fn() + Send,
    stop: CancellationToken,
) {
    cluster.standing.is_read(NAME);
    let mut pause = RETRY.0;
    let writing = async {
        loop {
            let now = Arc::clone(&verdicts.borrow_and_update());
            let Some(problem) = write_all(&cluster, &now, &failed).await else {
                if cluster.standing.is_well(NAME) {
                    tracing::info!("{NAME}: written again");
                }
                pause = RETRY.0;
                if verdicts.changed().await.is_err() {
                    return;
                }
                continue;
            };
            if cluster.standing.fails(NAME, problem.clone()) {
                tracing::warn!("{NAME} cannot be written: {problem}");
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    };
    stop.run_until_cancelled(writing).await;
}

/// Tries each; the last thing that was in the way.
async fn write_all(cluster: &Cluster, verdicts: &Verdicts, failed: &impl Fn()) -> Option<String> {
    let mut problem = None;
    for (pod, said) in verdicts.values() {
        if let Err(e) = write_one(cluster, pod, said).await {
            failed();
            problem = Some(format!("pod {}/{}: {e}", pod.namespace, pod.name));
        }
    }
    problem
}

/// Writes what is said at the end, when nothing is captured any more. Not for ever: the permission to do so is about to go.
pub async fn withdraw(cluster: &Cluster, verdicts: &Verdicts) {
    for _ in 0..LAST_TRIES {
        let Some(problem) = write_all(cluster, verdicts, &|| {}).await else { return };
        tracing::error!("{NAME} still say that they are captured: {problem}");
        time::sleep(RETRY.0).await;
    }
}

async fn write_one(cluster: &Cluster, pod: &Pod, said: &Said) -> Result<(), String> {
    let Some(condition) = change(pod.condition.as_ref(), said, Timestamp::now()) else { return Ok(()) };
    let pods = Api::<Object>::namespaced(cluster.client.clone(), &pod.namespace);
    let patch = patch(pod, &condition);
    match pods.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        // It is gone, or another one has its name by now.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 403 => {
            Err(format!("{}; give the service account this permission (the Helm chart does)", status.message))
        }
        Err(e) => Err(e.to_string()),
        Ok(_) => Ok(()),
    }
}

/// The condition to write; none where it is there already.
fn change(before: Option<&Condition>, said: &Said, now: Timestamp) -> Option<Condition> {
    let Said { holds, reason, message } = said;
    if before
        .is_some_and(|before| (before.holds, &before.reason, &before.message) == (*holds, reason, message))
    {
        return None;
    }
    let since = before.filter(|before| before.holds == *holds).map_or(now, |before| before.since);
    Some(Condition { holds: *holds, reason: reason.clone(), message: message.clone(), since })
}

/// Conditions are merged by their type. The uid makes it fail where another pod has the name by now.
fn patch(pod: &Pod, condition: &Condition) -> serde_json::Value {
    serde_json::json!({
        "metadata": {"uid": pod.uid},
        "status": {"conditions": [{
            "type": CAPTURED,
            "status": if condition.holds { "True" } else { "False" },
            "reason": condition.reason,
            "message": condition.message,
            "lastTransitionTime": time_of(condition.since),
        }]},
    })
}

/// The API takes whole seconds.
fn time_of(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(holds: bool, message: &str) -> Said {
        Said { holds, reason: "R".to_owned(), message: message.to_owned() }
    }

    #[test]
    fn only_what_is_new_is_written_and_only_a_change_of_the_status_is_a_transition() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = change(None, &said(true, "a"), at(1)).unwrap();
        assert_eq!((first.holds, first.since), (true, at(1)));
        assert_eq!(change(Some(&first), &said(true, "a"), at(2)), None);
        let second = change(Some(&first), &said(true, "b"), at(2)).unwrap();
        assert_eq!((&*second.message, second.since), ("b", at(1)));
        let third = change(Some(&second), &said(false, "b"), at(3)).unwrap();
        assert_eq!((third.holds, third.since), (false, at(3)));
    }

    #[test]
    fn the_api_gets_whole_seconds() {
        let at: Timestamp = "2026-01-02T03:04:05.678Z".parse().unwrap();
        assert_eq!(time_of(at), "2026-01-02T03:04:05Z");
    }
}
