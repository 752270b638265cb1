//! Egret in a cluster, the way a user installs it: its image on every node, its chart by Helm. And what tests and demo need
//! beside it: pods that call out, and what the gateways logged.
//!
//! Used by `cargo xtask cluster` and the cluster tests; these share one cluster, so each works in namespaces of its own and leaves
//! Egret as it found it.

use std::{path::Path, process::Command, time::Duration};

use anyhow::Result;
use serde_json::{Value, json};

use super::{Cluster, Kube, release::Release};
use crate::{
    curl::{self, Answer},
    wait,
};

/// Where Egret is installed: where the tutorial's objects expect the egress gateway.
pub const NAMESPACE: &str = "istio-system";
/// The name of the Helm release.
pub const RELEASE: &str = "egret";
/// The workloads of the chart.
pub const WORKLOADS: [&str; 3] =
    ["deployment/egret-ca", "deployment/istio-egressgateway", "daemonset/egret-agent"];

/// What an installation or an update gets.
pub(super) const ROLLOUT: Duration = Duration::from_mins(3);
/// What a pod gets until it runs and is captured.
const START: Duration = Duration::from_mins(1);

/// The condition of pods that says whether they are captured.
const CAPTURED: &str = "egret.dev/Captured";

/// A cluster with Egret in it.
pub struct Installed {
    cluster: Cluster,
    release: Release,
}

/// A pod that calls out: `sleep`, with a real curl.
#[derive(Clone, Debug, Default)]
pub struct Caller<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name, and its service account's.
    pub name: &'a str,
    /// The node it has to run on.
    pub node: Option<&'a str>,
    /// Its labels.
    pub labels: &'a [(&'a str, &'a str)],
    /// More of its `spec`, merged into it.
    pub spec: Value,
}

impl Installed {
    /// Installs the chart in `cluster` with `values` (`a.b=c`), and waits until everything is ready. `image` is the archive that
    /// `cargo xtask image` writes.
    pub fn install(cluster: Cluster, chart: &Path, image: &Path, values: &[&str]) -> Result<Self> {
        cluster.import_image(image)?;
        let installed = Self::of(cluster, chart);
        installed.upgrade(values)?;
        Ok(installed)
    }

    /// The one that is there, as it is.
    pub fn attach(cluster: Cluster, chart: &Path) -> Result<Self> {
        let installed = Self::of(cluster, chart);
        installed.wait_until_ready()?;
        Ok(installed)
    }

    fn of(cluster: Cluster, chart: &Path) -> Self {
        let release = Release::new(cluster.kube(), chart, vec!["image.pullPolicy=Never".to_owned()]);
        Self { cluster, release }
    }

    /// `helm upgrade --install` with these values in place of all that were set before, and the wait until it is carried out.
    pub fn upgrade(&self, values: &[&str]) -> Result<()> {
        self.upgrade_only(values)?;
        self.wait_until_ready()
    }

    /// The same without the wait.
    pub fn upgrade_only(&self, values: &[&str]) -> Result<()> {
        self.release.upgrade(values)
    }

    /// Waits until every part of Egret is ready and current.
    pub fn wait_until_ready(&self) -> Result<()> {
        self.release.wait_until_ready()
    }

    /// The Helm release.
    pub fn release(&self) -> &Release {
        &self.release
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The cluster, for who wants to remove or keep it.
    pub fn into_cluster(self) -> Cluster {
        self.cluster
    }

    /// Its API.
    pub fn kube(&self) -> &Kube {
        self.cluster.kube()
    }

    /// Makes a namespace, enrolled or not labelled at all; one that a killed run left is removed first.
    pub fn namespace(&self, name: &str, enrolled: bool) -> Result<()> {
        self.remove_namespace(name)?;
        let labels = if enrolled { json!({ "egret.dev/egress": "enabled" }) } else { json!({}) };
        let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } });
        self.kube().apply(&namespace.to_string()).map(drop)
    }

    /// Removes a namespace with everything in it.
    pub fn remove_namespace(&self, name: &str) -> Result<()> {
        let arguments = ["delete", "namespace", name, "--ignore-not-found", "--wait", "--timeout=90s"];
        self.kube().kubectl(&arguments).map(drop)
    }

    /// Starts a pod and waits until it runs, not until it is captured.
    pub fn start(&self, caller: &Caller<'_>) -> Result<()> {
        let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": caller.name, "namespace": caller.namespace } });
        let labels: serde_json::Map<_, _> =
            caller.labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let mut spec = json!({
            "serviceAccountName": caller.name,
            "terminationGracePeriodSeconds": 0,
            "nodeName": caller.node,
            "containers": [{ "name": "sleep", "image": "sleep:test", "imagePullPolicy": "Never",
                "command": ["sleep", "infinity"] }],
        });
        if let (Some(into), Some(more)) = (spec.as_object_mut(), caller.spec.as_object()) {
            into.extend(more.clone());
        }
        let pod = json!({ "apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": { "name": caller.name, "namespace": caller.namespace, "labels": labels } });
        self.kube().apply(&format!("{account}\n---\n{pod}"))?;
        self.wait_for_pod(caller.namespace, caller.name, "to run", |pod| {
            pod["status"]["phase"] == "Running" && pod["status"]["containerStatuses"][0]["ready"] == true
        })
    }

    /// The same, and waits until its condition says that it is captured.
    pub fn start_captured(&self, caller: &Caller<'_>) -> Result<()> {
        self.start(caller)?;
        self.wait_for_condition(caller.namespace, caller.name, "True")
    }

    /// Waits until the condition of a pod says so: `True` or `False`.
    pub fn wait_for_condition(&self, namespace: &str, pod: &str, status: &str) -> Result<()> {
        self.wait_for_pod(namespace, pod, &format!("to have {CAPTURED}={status}"), |found| {
            condition(found).is_some_and(|condition| condition["status"] == status)
        })
    }

    fn wait_for_pod(
        &self,
        namespace: &str,
        name: &str,
        what: &str,
        reached: impl FnMut(&Value) -> bool,
    ) -> Result<()> {
        let what = format!("pod {namespace}/{name} {what}");
        self.kube().wait_for(&what, &["pod", name, "-n", namespace], START, reached).map(drop)
    }

    /// Runs curl in a pod.
    pub fn curl(&self, namespace: &str, pod: &str, arguments: &[&str]) -> Result<Answer> {
        curl::run(self.exec(namespace, pod, &["curl"]).args(curl::OPTIONS).args(arguments))
    }

    /// A command in a pod.
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Command {
        self.kube().exec(namespace, pod, command)
    }

    /// The access log of all gateways that are there, one JSON object a request, in no order.
    pub fn access_log(&self) -> Result<Vec<Value>> {
        let mut lines = Vec::new();
        for pod in self.pods("istio-egressgateway")? {
            lines.extend(self.release.access_log_of(&pod)?);
        }
        Ok(lines)
    }

    /// The pods of one of Egret's service accounts.
    pub fn pods(&self, account: &str) -> Result<Vec<String>> {
        self.release.pods(account)
    }

    /// The agent's pod on a node, that is not just ending.
    pub fn agent_on(&self, node: &str) -> Result<String> {
        self.staying(&format!("spec.serviceAccountName=egret-agent,spec.nodeName={node}"))
    }

    /// A pod of Egret's that fields select and that is not just ending.
    pub(super) fn staying(&self, selector: &str) -> Result<String> {
        wait::until(&format!("a pod with {selector}"), START, || {
            let list = self.kube().get(&["pods", "-n", NAMESPACE, "--field-selector", selector])?;
            let pods = list["items"].as_array().into_iter().flatten();
            let mut staying = pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
            Ok(staying.find_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)))
        })
    }

    /// What a part of Egret answers: `egret` in one of its pods.
    pub fn egret(&self, pod: &str, arguments: &[&str]) -> Result<String> {
        self.release.egret(pod, arguments)
    }
}

/// The condition of a pod that says whether it is captured.
pub fn condition(pod: &Value) -> Option<&Value> {
    pod["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == CAPTURED)
}
