//! Taking Egret off a cluster without leaving anything on a node. The order is a ConfigMap; every agent follows it, and says so in a
//! condition of its own pod.
//!
//! ```text
//! egret uninstall    ConfigMap egret-uninstall, for the DaemonSet whose pods the agents are, and owned by it
//! each agent         releases its node's workloads, takes away programs, pins and cgroups, stays idle
//!                    condition egret.dev/Removed of its pod: True
//! egret uninstall    waits for all of them; then Helm deletes the agents, and the ConfigMap goes with their DaemonSet
//! ```
//!
//! An order is for one DaemonSet, by its uid: agents of a later installation do not obey an old one. Taking it back (deleting the
//! ConfigMap) starts the agents again. This file is the agents' side, `order` the other one.

pub mod order;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ConfigMap, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
    runtime::watcher::Event,
};
use serde_json::json;
use tokio::{sync::watch, time};

use super::{
    Cluster, names,
    watching::{describe_cause, follow, named},
};

/// Before the API server is asked again.
const RETRY: Duration = Duration::from_secs(2);

/// Key of the ConfigMap: the uid of the DaemonSet whose agents are meant.
const DAEMON_SET: &str = "daemonSet";

/// Whether the agents of this pod's DaemonSet are to take everything away. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mark {
    asked: watch::Receiver<Option<bool>>,
}

impl Mark {
    /// Waits until it is known.
    pub async fn known(&self) {
        self.wait(|asked| asked.is_some()).await;
    }

    /// Waits until it is so.
    pub async fn asked(&self) {
        self.wait(|asked| asked == Some(true)).await;
    }

    /// Whether it is so now.
    pub fn is_asked(&self) -> bool {
        *self.asked.borrow() == Some(true)
    }

    /// Waits until it is not, or no longer, so.
    pub async fn taken_back(&self) {
        self.wait(|asked| asked == Some(false)).await;
    }

    async fn wait(&self, is: impl Fn(Option<bool>) -> bool) {
        if self.asked.clone().wait_for(|asked| is(*asked)).await.is_err() {
            // Nobody will ever tell.
            std::future::pending::<()>().await;
        }
    }
}

/// Follows the order for this pod's DaemonSet, as long as anybody asks.
pub fn watch(cluster: &Cluster) -> Mark {
    let (sender, asked) = watch::channel(None);
    let name = format!("ConfigMap {}/{}", cluster.own.namespace, names::UNINSTALL);
    cluster.standing.expect(&name);
    let cluster = cluster.clone();
    tokio::spawn(async move {
        let following = async {
            let owner = owner_of_this_pod(&cluster, &name).await;
            let is_ours = |map: &ConfigMap| is_for(map, owner.as_deref());
            let mut listed = false;
            let set = |now| {
                sender.send_if_modified(|before| before.replace(now) != Some(now));
            };
            let maps = cluster.in_own_namespace::<ConfigMap>();
            follow(maps, named(names::UNINSTALL), &name, &cluster.standing, |event| match event {
                Event::Init => listed = false,
                Event::InitApply(map) => listed = is_ours(&map),
                Event::InitDone => set(listed),
                Event::Apply(map) => set(is_ours(&map)),
                Event::Delete(_) => set(false),
            })
            .await;
        };
        tokio::select! {
            () = following => {}
            () = sender.closed() => {}
        }
    });
    Mark { asked }
}

/// The uid of the DaemonSet that this pod is of.
async fn owner_of_this_pod(cluster: &Cluster, name: &str) -> Option<String> {
    // Listed, which it may, and not got, which it need not.
    let own = ListParams::default().fields(&format!("metadata.name={}", cluster.own.name));
    loop {
        match cluster.in_own_namespace::<Pod>().list_metadata(&own).await {
            Ok(found) => return found.items.first().and_then(|pod| controller(&pod.metadata)),
            Err(error) => {
                let why = format!("whose pod this is cannot be asked: {}", describe_cause(&error));
                if cluster.standing.fails(name, why.clone()) {
                    tracing::warn!("{name}: {why}");
                }
                time::sleep(RETRY).await;
            }
        }
    }
}

/// The uid of the DaemonSet that a pod is of.
fn controller(pod: &ObjectMeta) -> Option<String> {
    let owners = pod.owner_references.iter().flatten();
    owners.into_iter().find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone())
}

/// Whether an order is for the agents of this DaemonSet.
fn is_for(map: &ConfigMap, owner: Option<&str>) -> bool {
    let named = map.data.as_ref().and_then(|data| data.get(DAEMON_SET));
    named.is_some() && named.map(String::as_str) == owner
}

/// Says that nothing of Egret is left on this node, however often it has to be said. Returns also when this pod is gone.
pub async fn confirm(cluster: &Cluster) {
    let pods: Api<Pod> = cluster.in_own_namespace();
    let condition = json!({"status": {"conditions": [{
        "type": names::REMOVED,
        "status": "True",
        "reason": "TakenAway",
        "message": format!(
            "Egret {} has released every pod of node {} and taken away its programs, pins and cgroups",
            env!("CARGO_PKG_VERSION"),
            cluster.own.node
        ),
        "lastTransitionTime": Timestamp::now().round(jiff::Unit::Second).unwrap_or_default(),
    }]}});
    let mut said = String::new();
    loop {
        match pods
            .patch_status(&cluster.own.name, &PatchParams::default(), &Patch::Strategic(&condition))
            .await
        {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if status.code == 404 => return,
            Err(error) => {
                let why = describe_cause(&error);
                if why != said {
                    tracing::error!("the removal cannot be confirmed on this pod: {why}");
                    said = why;
                }
                time::sleep(RETRY).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
    use tokio::sync::watch;

    use super::{DAEMON_SET, Mark, controller, is_for};

    #[test]
    fn an_order_is_for_the_agents_of_one_daemon_set() {
        let order = |data: serde_json::Value| {
            serde_json::from_value::<ConfigMap>(serde_json::json!({"data": data})).unwrap()
        };
        let ours = order(serde_json::json!({DAEMON_SET: "u-1"}));
        assert!(is_for(&ours, Some("u-1")));
        assert!(!is_for(&ours, Some("u-2")), "an order for an earlier installation");
        assert!(!is_for(&ours, None));
        assert!(!is_for(&order(serde_json::json!({})), None), "says nothing");
    }

    #[test]
    fn the_controller_is_the_owner_that_counts() {
        let pod = serde_json::json!({"ownerReferences": [
            {"apiVersion": "v1", "kind": "X", "name": "x", "uid": "u-0"},
            {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "egret-agent", "uid": "u-1", "controller": true},
        ]});
        assert_eq!(controller(&serde_json::from_value::<ObjectMeta>(pod).unwrap()).as_deref(), Some("u-1"));
        assert_eq!(controller(&ObjectMeta::default()), None);
    }

    #[tokio::test]
    async fn an_order_can_be_taken_back() {
        let (sender, asked) = watch::channel(None);
        let mark = Mark { asked };
        sender.send_replace(Some(true));
        mark.known().await;
        mark.asked().await;
        assert!(mark.is_asked());
        sender.send_replace(Some(false));
        mark.taken_back().await;
        assert!(!mark.is_asked());
    }
}
