//! `egret uninstall`: orders the removal, and waits until every agent has said that it is done. Runs in the cluster (Helm's hook
//! before it deletes anything), or outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context as _, bail};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Pod},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use tokio::time::{Instant, sleep};

use super::{DAEMON_SET, names};
use crate::kubernetes::{Outside, watching::describe_cause};

/// How often the agents are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The cluster that Egret is removed from, and the namespace it is in.
pub struct Place {
    client: Client,
    namespace: String,
}

/// How far one agent is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Progress {
    Removed,
    Waiting(String),
}

impl Place {
    /// The cluster that this process is a pod of; none where it is not in one.
    pub fn around() -> anyhow::Result<Option<Self>> {
        let Ok(config) = Config::incluster() else { return Ok(None) };
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).context("the Kubernetes API cannot be used")?;
        Ok(Some(Self { client, namespace }))
    }

    /// The same from outside of it.
    pub fn outside(outside: &Outside) -> Self {
        Self { client: outside.client.clone(), namespace: outside.namespace.clone() }
    }

    /// Orders the removal, and waits for every agent. Says with `say` who is done.
    pub async fn uninstall(&self, patience: Duration, mut say: impl FnMut(String)) -> anyhow::Result<()> {
        let deadline = Instant::now() + patience;
        let owners = owners(&self.agents().await?);
        if owners.is_empty() {
            say(format!(
                "no agent runs in namespace {}, so there is nobody to remove anything. Where agents were deleted before, the pods \
                 that they had enrolled stay captured and are refused: install Egret again and uninstall it, or run `egret agent \
                 --cleanup` as root on each of their nodes",
                self.namespace
            ));
            return Ok(());
        }
        self.order(&owners).await?;
        let mut done = BTreeSet::new();
        loop {
            let now: BTreeMap<_, _> = self.agents().await?.iter().map(progress).collect();
            for ((node, pod), progress) in &now {
                if *progress == Progress::Removed && done.insert((node.clone(), pod.clone())) {
                    say(format!("node {node}: removed ({pod})"));
                }
            }
            let open: Vec<String> = now
                .iter()
                .filter_map(|((node, pod), progress)| match progress {
                    Progress::Removed => None,
                    Progress::Waiting(why) => Some(format!("node {node}: {pod} {why}")),
                })
                .collect();
            if open.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "after {patience:?} {} of {} agents have not taken Egret off their node:\n  {}\n\
                     Its pods stay captured and, without an agent, refused. Mend the agent and uninstall again; or, on each of these \
                     nodes as root, run `egret agent --cleanup`. Agents that are done stay idle; to keep Egret after all: kubectl \
                     -n {} delete configmap {}",
                    open.len(),
                    now.len(),
                    open.join("\n  "),
                    self.namespace,
                    names::UNINSTALL
                );
            }
            sleep(LOOK).await;
        }
    }

    async fn agents(&self) -> anyhow::Result<Vec<Pod>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let listed = pods.list(&ListParams::default().labels(names::AGENTS)).await;
        let listed =
            listed.map_err(|e| anyhow::anyhow!("the agents cannot be listed: {}", describe_cause(&e)))?;
        Ok(listed.items)
    }

    async fn order(&self, owners: &BTreeMap<String, OwnerReference>) -> anyhow::Result<()> {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let Some((uid, _)) = owners.first_key_value() else { return Ok(()) };
        if owners.len() > 1 {
            bail!(
                "the agents of namespace {} are of several DaemonSets: delete all but one first",
                self.namespace
            );
        }
        let mut map = ConfigMap {
            data: Some(BTreeMap::from([(DAEMON_SET.to_owned(), uid.clone())])),
            ..ConfigMap::default()
        };
        map.metadata.name = Some(names::UNINSTALL.to_owned());
        map.metadata.labels =
            Some(BTreeMap::from([("app.kubernetes.io/name".to_owned(), "egret".to_owned())]));
        map.metadata.owner_references = Some(owners.values().cloned().collect());
        let made = match maps.create(&PostParams::default(), &map).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                maps.patch(names::UNINSTALL, &PatchParams::default(), &Patch::Merge(&map)).await
            }
            made => made,
        };
        made.map(drop).map_err(|e| {
            anyhow::anyhow!("the ConfigMap {} cannot be written: {}", names::UNINSTALL, describe_cause(&e))
        })
    }
}

/// The DaemonSets that the agents are of, by uid. The order goes with it.
fn owners(agents: &[Pod]) -> BTreeMap<String, OwnerReference> {
    let all = agents.iter().flat_map(|pod| pod.metadata.owner_references.iter().flatten());
    let controllers = all.filter(|owner| owner.controller == Some(true));
    controllers
        .map(|owner| {
            // Ours, but not to be controlled, and not to hold up its deletion.
            let owner = OwnerReference { controller: None, block_owner_deletion: None, ..owner.clone() };
            (owner.uid.clone(), owner)
        })
        .collect()
}

/// How far an agent is, by node and pod.
fn progress(pod: &Pod) -> ((String, String), Progress) {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let is =
        |kind: &str| conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True");
    // Where it was never placed, it never made anything.
    let progress = if is(names::REMOVED) || node.is_none() {
        Progress::Removed
    } else if pod.metadata.deletion_timestamp.is_some() {
        Progress::Waiting(
            "is being deleted and has not said that it is done; is the node reachable?".to_owned(),
        )
    } else if is("Ready") {
        Progress::Waiting("is at work and has not said that it is done; its log says why".to_owned())
    } else {
        let phase = status.phase.unwrap_or_else(|| "Unknown".to_owned());
        Progress::Waiting(format!("is not ready ({phase}); see its log, and whether the node is reachable"))
    };
    ((node.unwrap_or_else(|| "(none)".to_owned()), pod.name_any()), progress)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::{Progress, owners, progress};

    fn pod(node: Option<&str>, conditions: &[(&str, &str)]) -> Pod {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(kind, status)| serde_json::json!({"type": kind, "status": status}))
            .collect();
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "egret-agent-x", "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "egret-agent", "uid": "u-1",
                "controller": true, "blockOwnerDeletion": true,
            }]},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": "Running", "conditions": conditions},
        }))
        .unwrap()
    }

    #[test]
    fn only_who_says_so_is_done() {
        let of = |pod: &Pod| progress(pod).1;
        assert_eq!(of(&pod(Some("a"), &[("egret.dev/Removed", "True")])), Progress::Removed);
        assert_ne!(of(&pod(Some("a"), &[("egret.dev/Removed", "False")])), Progress::Removed);
        let Progress::Waiting(why) = of(&pod(Some("a"), &[("Ready", "True")])) else {
            panic!("it is at work")
        };
        assert!(why.contains("at work"), "{why}");
        let Progress::Waiting(why) = of(&pod(Some("a"), &[])) else { panic!("it has said nothing") };
        assert!(why.contains("not ready (Running)"), "{why}");
        assert_eq!(of(&pod(None, &[])), Progress::Removed, "it never was on a node");
    }

    #[test]
    fn the_order_goes_with_the_daemon_set_and_does_not_hold_it_up() {
        let found = owners(&[pod(Some("a"), &[]), pod(Some("b"), &[])]);
        assert_eq!(found.len(), 1);
        let owner = &found["u-1"];
        assert_eq!(
            (owner.kind.as_str(), owner.controller, owner.block_owner_deletion),
            ("DaemonSet", None, None)
        );
    }
}
