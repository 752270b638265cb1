//! What a pod belongs to, as Istio names it (`GetWorkloadMetaFromPod` and its canonical service): by its labels and the reference to
//! what made it, without asking for that.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use crate::hbone::baggage::{Baggage, Owner, PodName};

type Labels = BTreeMap<String, String>;

/// The operator's own word for the workload, in place of its owner's name.
const WORKLOAD_NAME: &str = "service.istio.io/workload-name";
/// Labels that name the service, the first one first.
const SERVICE: [&str; 3] = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
/// The same of its version.
const VERSION: [&str; 3] = ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"];
/// A CronJob's Job has the minute in its name, in eight to ten digits.
const CRON_DIGITS: std::ops::RangeInclusive<usize> = 8..=10;

/// How the tunnels of a pod are to be described.
pub(super) fn describe(pod: &Pod) -> Baggage {
    let meta = &pod.metadata;
    let no_labels = Labels::new();
    let labels = meta.labels.as_ref().unwrap_or(&no_labels);
    let text = |value: &Option<String>| value.as_deref().filter(|value| !value.is_empty()).map(Arc::from);
    let first = |keys: [&str; 3]| keys.iter().find_map(|key| text(&labels.get(*key).cloned()));
    let pod = text(&meta.name).zip(text(&meta.uid)).map(|(name, uid)| PodName { name, uid });
    let owner = owner(meta, labels, pod.as_ref());
    let service = first(SERVICE).or_else(|| owner.as_ref().map(|owner| Arc::clone(&owner.name)));
    Baggage { namespace: text(&meta.namespace), service, version: first(VERSION), owner, pod }
}

/// None where the pod is a workload of its own.
fn owner(meta: &ObjectMeta, labels: &Labels, pod: Option<&PodName>) -> Option<Owner> {
    // A static pod's owner is its node: only what generates names makes workloads.
    let generated = meta.generate_name.as_deref().is_some_and(|prefix| !prefix.is_empty());
    let reference =
        meta.owner_references.iter().flatten().find(|owner| generated && owner.controller == Some(true));
    let owner = reference.map(|reference| {
        let (kind, name) = (&*reference.kind, &*reference.name);
        let above = |suffix: &str| {
            let hash = labels.get(suffix).filter(|hash| !hash.is_empty())?;
            name.strip_suffix(&**hash)?.strip_suffix('-')
        };
        let (kind, name) = match kind {
            "ReplicaSet" => match (above("pod-template-hash"), above("rollouts-pod-template-hash")) {
                (Some(name), _) => ("deployment", name),
                (None, Some(name)) => ("rollout", name),
                (None, None) => (kind, name),
            },
            "ReplicationController" => match labels.get("deploymentconfig") {
                Some(name) => ("deploymentconfig", &**name),
                None => (kind, name),
            },
            "Job" => match cron_job(name) {
                Some(name) => ("cronjob", name),
                None => (kind, name),
            },
            _ => (kind, name),
        };
        Owner { kind: kind.to_ascii_lowercase().into(), name: name.into() }
    });
    match labels.get(WORKLOAD_NAME).filter(|name| !name.is_empty()) {
        Some(name) => {
            let kind = owner.map_or_else(|| "pod".into(), |owner| owner.kind);
            // ... which says nothing more where it is the pod's own.
            (pod.is_none_or(|pod| *pod.name != **name) || &*kind != "pod")
                .then(|| Owner { kind, name: name.as_str().into() })
        }
        None => owner,
    }
}

/// `backup` of `backup-28971234`.
fn cron_job(job: &str) -> Option<&str> {
    let (name, digits) = job.rsplit_once('-')?;
    let is_time = CRON_DIGITS.contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    (is_time && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::describe;

    /// The description of a pod `p-1` that `owner` made, with these labels.
    fn of(owner: Option<(&str, &str)>, labels: &Value) -> String {
        let mut object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p-1", "namespace": "web", "uid": "u", "generateName": "p-", "labels": labels},
        });
        if let Some((kind, name)) = owner {
            object["metadata"]["ownerReferences"] = json!([
                {"apiVersion": "v1", "kind": "Other", "name": "no-controller", "uid": "o"},
                {"apiVersion": "v1", "kind": kind, "name": name, "uid": "o", "controller": true},
            ]);
        }
        describe(&serde_json::from_value(object).unwrap()).to_string()
    }

    #[test]
    fn workloads_are_named_as_istio_names_them() {
        for (kind, name, labels, expected) in [
            ("ReplicaSet", "web-7c9d", json!({"pod-template-hash": "7c9d"}), "k8s.deployment.name=web"),
            ("ReplicaSet", "web-7c9d", json!({"rollouts-pod-template-hash": "7c9d"}), "k8s.rollout.name=web"),
            ("ReplicaSet", "web-7c9d", json!({"pod-template-hash": "other"}), "k8s.replicaset.name=web-7c9d"),
            (
                "ReplicationController",
                "web-1",
                json!({"deploymentconfig": "web"}),
                "k8s.deploymentconfig.name=web",
            ),
            ("Job", "backup-28971234", json!({}), "k8s.cronjob.name=backup"),
            ("Job", "backup-1234567", json!({}), "k8s.job.name=backup-1234567"),
            ("Job", "backup-12345678901", json!({}), "k8s.job.name=backup-12345678901"),
            ("StatefulSet", "db", json!({}), "k8s.statefulset.name=db"),
            (
                "StatefulSet",
                "db",
                json!({"service.istio.io/workload-name": "own"}),
                "k8s.statefulset.name=own",
            ),
        ] {
            let described = of(Some((kind, name)), &labels);
            let (key, own) = expected.split_once('=').unwrap();
            assert_eq!(
                described,
                format!(
                    "k8s.namespace.name=web,k8s.pod.name=p-1,k8s.pod.uid=u,{key}={own},service.name={own}"
                )
            );
        }
    }

    #[test]
    fn a_pod_that_nobody_made_is_its_own_workload() {
        let alone = "k8s.namespace.name=web,k8s.pod.name=p-1,k8s.pod.uid=u";
        assert_eq!(of(None, &json!({})), alone);
        let of_node = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p-1", "namespace": "web", "uid": "u", "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "o", "controller": true}]},
        });
        assert_eq!(describe(&serde_json::from_value(of_node).unwrap()).to_string(), alone);
    }

    #[test]
    fn labels_name_service_and_version() {
        let labels = json!({"app": "b", "app.kubernetes.io/name": "a", "version": "", "app.kubernetes.io/version": "2"});
        let described = of(Some(("DaemonSet", "d")), &labels);
        assert!(described.ends_with("k8s.daemonset.name=d,service.name=a,service.version=2"), "{described}");
    }
}
