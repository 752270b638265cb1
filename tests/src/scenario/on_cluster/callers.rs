//! The pods that call out in the scenario: `sleep` and `other` of the tutorial, one whose own network is cut, and one that is not
//! enrolled.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::cluster::{Kube, installed::condition};

/// By which everything of a walk in a namespace of others is found.
pub(super) const LABEL: (&str, &str) = ("app.kubernetes.io/part-of", "egret-demo");
/// Runs as `sleep`, and has no link to the network that is up.
pub(super) const ISOLATED: &str = "sleep-isolated";
/// Is in a namespace that is not enrolled.
pub(super) const OUTSIDE: &str = "outside";

/// The image of the callers: with curl, `sleep` and `ip`.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its name.
    pub image: String,
    /// `imagePullPolicy`.
    pub pull_policy: String,
}

impl Client {
    /// The one that clusters of the tests have.
    pub fn of_tests() -> Self {
        Self { image: "sleep:test".to_owned(), pull_policy: "Never".to_owned() }
    }
}

/// Everything that is applied.
pub(super) fn objects(client: &Client, node: &str, callers: &str, outside: &str) -> String {
    let account = |namespace: &str, name: &str| {
        json!({ "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": name, "namespace": namespace, "labels": { LABEL.0: LABEL.1 } } })
    };
    let objects = [
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": outside } }),
        account(callers, "sleep"),
        account(callers, "other"),
        account(outside, OUTSIDE),
        deployment(client, node, callers, "sleep", "sleep"),
        deployment(client, node, callers, "other", "other"),
        isolated(client, node, callers),
        deployment(client, node, outside, OUTSIDE, OUTSIDE),
    ];
    objects.map(|object| object.to_string()).join("\n---\n")
}

fn deployment(client: &Client, node: &str, namespace: &str, name: &str, account: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name, "namespace": namespace, "labels": { LABEL.0: LABEL.1 } },
        "spec": {
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": {
                    "serviceAccountName": account,
                    "nodeSelector": { "kubernetes.io/hostname": node },
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{ "name": "sleep", "image": client.image, "imagePullPolicy": client.pull_policy,
                        "command": ["sleep", "infinity"] }],
                },
            },
        },
    })
}

/// Its first container takes the link down, which all of them share.
fn isolated(client: &Client, node: &str, namespace: &str) -> Value {
    let mut deployment = deployment(client, node, namespace, ISOLATED, "sleep");
    deployment["spec"]["template"]["spec"]["initContainers"] = json!([{
        "name": "cut", "image": client.image, "imagePullPolicy": client.pull_policy,
        "command": ["ip", "link", "set", "eth0", "down"],
        "securityContext": { "runAsUser": 0, "capabilities": { "add": ["NET_ADMIN"] } },
    }]);
    deployment
}

/// Waits until all of them run, and those that are enrolled are captured.
pub(super) fn wait(kube: &Kube, callers: &str, outside: &str, patience: Duration) -> Result<()> {
    for name in ["sleep", "other", ISOLATED] {
        kube.wait_for_rollout(callers, &format!("deployment/{name}"), patience)?;
        let pods = ["pods", "-n", callers, "-l", &format!("app={name}")];
        kube.wait_for(&format!("{name} to be captured"), &pods, patience, |list| {
            let pods = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            !pods.is_empty()
                && pods.iter().all(|pod| condition(pod).is_some_and(|captured| captured["status"] == "True"))
        })?;
    }
    kube.wait_for_rollout(outside, &format!("deployment/{OUTSIDE}"), patience)
}
