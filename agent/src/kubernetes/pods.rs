//! The pods of this node, and what is asked for each of them: by its own label, or its namespace's.
//!
//! `app::agent` starts it, `node::pods` does what is asked. Only labelled namespaces are read, and of those only the metadata; the
//! pods of other nodes are not.

pub mod conditions;
mod doubt;
mod naming;
pub(super) mod wish;

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod as Object};
use kube::{Api, core::PartialObjectMeta, runtime::watcher};
use tokio::sync::watch;

use self::doubt::{Doubts, Settled};
use super::{
    Cluster,
    names::{CAPTURED, EGRESS},
    own::Own,
    watching::{Key, mirror},
};
use crate::node::pods::{Condition, Pod, Pods, Wish};

/// What the kubelet writes on the mirror of a static pod: the uid by which it knows the pod itself.
const STATIC_UID: &str = "kubernetes.io/config.hash";
/// Tells such a mirror.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Egret's own pods have this label.
const OWN_LABEL: (&str, &str) = ("app.kubernetes.io/name", "egret");

/// A pod as it was read, without what its namespace says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Read {
    label: Option<String>,
    /// It is Egret's own.
    own: bool,
    pod: Pod,
}

/// Follows the pods of this node; `None` until they and the labelled namespaces were read. Ends when nobody listens.
pub fn watch(cluster: &Cluster) -> watch::Receiver<Option<Arc<Pods>>> {
    let pods = watch::Sender::new(None);
    let namespaces = watch::Sender::new(None);
    let (mut pods_seen, mut namespaces_seen) = (pods.subscribe(), namespaces.subscribe());
    let (sender, receiver) = watch::channel(None);
    let cluster = cluster.clone();
    tokio::spawn(async move {
        let of_node = watcher::Config::default().fields(&format!("spec.nodeName={}", cluster.own.node));
        let watching_pods = mirror(
            Api::<Object>::all(cluster.client.clone()),
            of_node,
            "the pods of this node",
            &cluster.standing,
            |object| read(&object, &cluster.own),
            &pods,
        );
        let watching_namespaces = mirror(
            Api::<PartialObjectMeta<Namespace>>::all(cluster.client.clone()),
            watcher::Config::default().labels(EGRESS),
            "the labelled namespaces",
            &cluster.standing,
            |object| object.metadata.labels.and_then(|mut labels| labels.remove(EGRESS)).unwrap_or_default(),
            &namespaces,
        );
        let merging = async {
            let mut settled = Settled::default();
            loop {
                let mut doubts = Doubts::new();
                let now = merged(
                    pods_seen.borrow_and_update().as_deref(),
                    namespaces_seen.borrow_and_update().as_deref(),
                    &settled,
                    &mut doubts,
                );
                sender.send_if_modified(|before| std::mem::replace(before, now.clone()) != now);
                let changed = tokio::select! {
                    changed = pods_seen.changed() => changed,
                    changed = namespaces_seen.changed() => changed,
                    () = settled.ask(&cluster.client, &doubts, &cluster.standing), if !doubts.is_empty() => Ok(()),
                };
                if let Some(pods) = &*pods_seen.borrow() {
                    settled.keep(|uid| pods.values().any(|read| read.pod.uid == uid));
                }
                if changed.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = watching_pods => {}
            () = watching_namespaces => {}
            () = merging => {}
            () = sender.closed() => {}
        }
    });
    receiver
}

/// Both together, by the uid in the name of the pod's cgroup; without those that are in doubt.
fn merged(
    pods: Option<&BTreeMap<Key, Read>>,
    namespaces: Option<&BTreeMap<Key, String>>,
    settled: &Settled,
    doubts: &mut Doubts,
) -> Option<Arc<Pods>> {
    let (pods, namespaces) = (pods?, namespaces?);
    let mut all = Pods::new();
    for Read { label, own, pod } in pods.values() {
        let of_namespace = namespaces.get(&(String::new(), pod.namespace.clone())).map(String::as_str);
        let wish = wish::decide(label.as_deref(), of_namespace, *own);
        if wish.what == Wish::Nobody && !own && !settled.has(&pod.uid) {
            let doubt = doubts.entry(pod.namespace.clone()).or_default();
            doubt.label = of_namespace.map(str::to_owned);
            doubt.pods.push(pod.uid.clone());
            continue;
        }
        let pod = Pod { wish: wish.what, odd: wish.odd, ..pod.clone() };
        // Of two that claim one cgroup, which is possible for static pods only, the one that is to be captured counts.
        match all.get(&pod.cgroup) {
            Some(other) if other.wish == Wish::Enrolled => {}
            _ => drop(all.insert(pod.cgroup.clone(), pod)),
        }
    }
    Some(Arc::new(all))
}

fn read(object: &Object, own: &Own) -> Read {
    let meta = &object.metadata;
    let (namespace, uid) = (meta.namespace.clone().unwrap_or_default(), meta.uid.clone().unwrap_or_default());
    let no_labels = BTreeMap::new();
    let labels = meta.labels.as_ref().unwrap_or(&no_labels);
    let labelled_own = labels.get(OWN_LABEL.0).is_some_and(|value| value == OWN_LABEL.1);
    let spec = object.spec.as_ref();
    let status = object.status.as_ref();
    let phase = status.and_then(|status| status.phase.as_deref()).unwrap_or_default();
    Read {
        label: labels.get(EGRESS).cloned(),
        own: uid == own.uid || (namespace == own.namespace && labelled_own),
        pod: Pod {
            cgroup: static_uid(object).unwrap_or_else(|| uid.clone()),
            name: meta.name.clone().unwrap_or_default(),
            service_account: spec
                .and_then(|spec| spec.service_account_name.clone())
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| "default".to_owned()),
            wish: Wish::Nobody,
            odd: None,
            runs: phase == "Running",
            ended: matches!(phase, "Succeeded" | "Failed"),
            baggage: naming::describe(object),
            condition: condition(object),
            namespace,
            uid,
        },
    }
}

/// The kubelet's uid of a static pod: a hash, without the hyphens that every other uid has, so that nobody can claim
/// another pod's cgroup by annotations.
fn static_uid(object: &Object) -> Option<String> {
    let annotations = object.metadata.annotations.as_ref()?;
    annotations.get(MIRROR)?;
    let hash = annotations.get(STATIC_UID)?;
    (hash.len() == 32 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| hash.clone())
}

fn condition(object: &Object) -> Option<Condition> {
    let conditions = object.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == CAPTURED)?;
    Some(Condition {
        holds: found.status == "True",
        reason: found.reason.clone().unwrap_or_default(),
        message: found.message.clone().unwrap_or_default(),
        since: found.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn own() -> Own {
        Own {
            name: "egret-agent-x".to_owned(),
            namespace: "istio-system".to_owned(),
            uid: "11111111-1111-1111-1111-111111111111".to_owned(),
            address: IpAddr::from([10, 0, 0, 1]),
            node: "a".to_owned(),
        }
    }

    fn pod(namespace: &str, uid: &str, metadata: &serde_json::Value) -> Read {
        let mut object = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": namespace, "uid": uid},
            "spec": {"containers": [], "serviceAccountName": "sleep"}, "status": {"phase": "Running"},
        });
        for (key, value) in metadata.as_object().unwrap() {
            object["metadata"][key] = value.clone();
        }
        read(&serde_json::from_value(object).unwrap(), &own())
    }

    fn all(pods: &[Read], namespaces: &[(&str, &str)]) -> Arc<Pods> {
        let pods = pods.iter().enumerate().map(|(number, read)| {
            ((read.pod.namespace.clone(), format!("{}{number}", read.pod.name)), read.clone())
        });
        let namespaces =
            namespaces.iter().map(|(name, label)| ((String::new(), (*name).to_owned()), (*label).to_owned()));
        merged(
            Some(&pods.collect()),
            Some(&namespaces.collect()),
            &settled(&["u-4", "u-2"]),
            &mut Doubts::new(),
        )
        .unwrap()
    }

    #[test]
    fn nothing_is_said_before_both_are_read() {
        let (pods, namespaces) = (BTreeMap::new(), BTreeMap::new());
        let merged = |pods, namespaces| merged(pods, namespaces, &Settled::default(), &mut Doubts::new());
        assert!(merged(None, Some(&namespaces)).is_none());
        assert!(merged(Some(&pods), None).is_none());
        assert!(merged(Some(&pods), Some(&namespaces)).unwrap().is_empty());
    }

    #[test]
    fn a_new_pod_is_not_left_alone_before_its_namespace_was_asked() {
        let pods = [
            pod("web", "u-1", &serde_json::json!({})),
            pod("free", "u-2", &serde_json::json!({})),
            pod("off", "u-3", &serde_json::json!({})),
            pod("free", "u-4", &serde_json::json!({})),
            pod("free", "u-5", &serde_json::json!({"labels": {"egret.dev/egress": "disabled"}})),
        ];
        let keyed = pods.iter().map(|read| ((String::new(), read.pod.uid.clone()), read.clone())).collect();
        let labels = [("web", "enabled"), ("off", "disabled")];
        let namespaces =
            labels.map(|(name, label)| ((String::new(), name.to_owned()), label.to_owned())).into();
        let mut doubts = Doubts::new();
        let known = merged(Some(&keyed), Some(&namespaces), &settled(&["u-4"]), &mut doubts).unwrap();
        assert_eq!(known.keys().collect::<Vec<_>>(), ["u-1", "u-4", "u-5"]);
        let doubt = |label: Option<&str>, uid: &str| doubt::Doubt {
            label: label.map(str::to_owned),
            pods: vec![uid.to_owned()],
        };
        let expected = [("free", doubt(None, "u-2")), ("off", doubt(Some("disabled"), "u-3"))];
        assert_eq!(doubts, expected.map(|(name, doubt)| (name.to_owned(), doubt)).into());
    }

    fn settled(pods: &[&str]) -> Settled {
        let mut settled = Settled::default();
        settled.settle(pods.iter().map(|uid| (*uid).to_owned()));
        settled
    }

    #[test]
    fn what_the_namespace_says_counts_where_the_pod_says_nothing() {
        let pods = [
            pod("web", "u-1", &serde_json::json!({})),
            pod("web", "u-2", &serde_json::json!({"labels": {"egret.dev/egress": "disabled"}})),
            pod("other", "u-3", &serde_json::json!({"labels": {"egret.dev/egress": "enabled"}})),
            pod("other", "u-4", &serde_json::json!({})),
        ];
        let all = all(&pods, &[("web", "enabled")]);
        let wishes: Vec<_> = all.values().map(|pod| pod.wish).collect();
        assert_eq!(wishes, [Wish::Enrolled, Wish::OptedOut, Wish::Enrolled, Wish::Nobody]);
        assert_eq!(all["u-1"].service_account, "sleep");
    }

    #[test]
    fn egrets_own_pods_are_told_by_uid_or_by_label_in_its_namespace() {
        let named = serde_json::json!({"labels": {"app.kubernetes.io/name": "egret"}});
        let pods = [
            pod("istio-system", "u-1", &named),
            pod("istio-system", "u-2", &serde_json::json!({})),
            pod("elsewhere", "u-3", &named),
            pod("elsewhere", &own().uid, &serde_json::json!({})),
        ];
        let all = all(&pods, &[("istio-system", "enabled"), ("elsewhere", "enabled")]);
        let wishes: Vec<_> = ["u-1", "u-2", "u-3", &own().uid].map(|uid| all[uid].wish).into();
        assert_eq!(wishes, [Wish::Own, Wish::Enrolled, Wish::Enrolled, Wish::Own]);
    }

    #[test]
    fn the_cgroup_of_a_static_pod_has_the_kubelets_uid() {
        let hash = "0123456789abcdef0123456789abcdef";
        let annotated = |hash: &str, mirror: bool| {
            let mut annotations = serde_json::json!({"kubernetes.io/config.hash": hash});
            if mirror {
                annotations["kubernetes.io/config.mirror"] = hash.into();
            }
            pod("web", "u-1", &serde_json::json!({ "annotations": annotations })).pod.cgroup
        };
        assert_eq!(annotated(hash, true), hash);
        assert_eq!(annotated(hash, false), "u-1", "no mirror");
        let somebody_elses = "11111111-1111-1111-1111-111111111111";
        assert_eq!(annotated(somebody_elses, true), "u-1", "nobody claims another pod's cgroup");
    }

    #[test]
    fn two_that_claim_one_cgroup() {
        let hash = "0123456789abcdef0123456789abcdef";
        let annotations =
            serde_json::json!({"kubernetes.io/config.hash": hash, "kubernetes.io/config.mirror": hash});
        for order in [["a", "web"], ["web", "z"]] {
            let pods = order
                .map(|namespace| pod(namespace, "u", &serde_json::json!({ "annotations": annotations })));
            assert_eq!(all(&pods, &[("web", "enabled")])[hash].wish, Wish::Enrolled);
        }
    }

    #[test]
    fn the_condition_that_is_there_is_read() {
        let object = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "web", "uid": "u"},
            "status": {"conditions": [
                {"type": "Ready", "status": "True"},
                {"type": "egret.dev/Captured", "status": "False", "reason": "Disabled", "message": "m",
                 "lastTransitionTime": "2026-01-02T03:04:05Z"},
            ]},
        });
        let condition = read(&serde_json::from_value(object).unwrap(), &own()).pod.condition.unwrap();
        assert_eq!((condition.holds, &*condition.reason, &*condition.message), (false, "Disabled", "m"));
        assert_eq!(condition.since.to_string(), "2026-01-02T03:04:05Z");
    }
}
