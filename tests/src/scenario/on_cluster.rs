//! The scenario on a cluster: `sleep` is a Deployment in the namespace `default`, the objects are applied with kubectl, the settings of
//! the mesh with helm, and the commands are the tutorial's.
//!
//! Called by `cargo xtask cluster demo` and the cluster test of the same name. It has one gateway, as the tutorial's commands take for
//! granted, and where there are two nodes its callers run on another one. Whoever made the world calls [`OnCluster::remove`].

mod callers;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

pub use self::callers::Client;
use super::{Origin, Side, Stage};
use crate::{
    cluster::{Kube, installed::NAMESPACE, release::Release},
    config::{GOOD, PLACEHOLDER},
    curl::{self, Answer},
    external::External,
    json_log, wait,
};

/// Where the callers are, as in the tutorial.
const CALLERS: &str = "default";
/// Where the pod is that is not enrolled.
const OUTSIDE: &str = "egret-demo-outside";
/// The settings that a walk starts with.
const AT_FIRST: &str = "1-allow-any/mesh.yaml";
/// What a change gets until it is in force.
const IN_FORCE: Duration = Duration::from_secs(15);
/// What a pod gets to come or go.
const START: Duration = Duration::from_mins(1);
/// The tutorial's names for the files of the credential.
const CREDENTIAL: [(&str, &str); 3] =
    [("client.key.pem", GOOD.key), ("clientcert.pem", GOOD.certificate), ("cacert.pem", GOOD.ca)];
/// The objects of the steps, as kubectl names them.
const OBJECTS: [(&str, &str); 6] = [
    (CALLERS, "serviceentry/test-com"),
    (CALLERS, "gateways.networking.istio.io/egress-gateway"),
    (CALLERS, "virtualservice/egressgateway-vs"),
    (CALLERS, "destinationrule/originate-mtls-for-test-com"),
    (NAMESPACE, "authorizationpolicy/test"),
    (NAMESPACE, "secret/test.client"),
];

/// The cluster, the external service, and what a walk made.
pub struct OnCluster {
    release: Release,
    /// The outside.
    pub external: External,
    /// The files of the steps: `deploy/demo`.
    steps: PathBuf,
    /// For the files of the credential.
    work: PathBuf,
    /// The nodes of the callers and of the gateway.
    nodes: (String, String),
    before: Mark,
}

/// How far the gateways' logs, by pod, and the external service's have come.
#[derive(Clone, Debug, Default)]
pub struct Mark {
    gateways: BTreeMap<String, usize>,
    external: json_log::Mark,
}

impl OnCluster {
    /// Brings the release to one gateway and `ALLOW_ANY`, enrols `default`, and starts the callers; waits until they are captured.
    /// `work` is a directory for the files of the credential, created.
    pub fn start(
        release: &Release,
        external: External,
        client: &Client,
        steps: &Path,
        work: &Path,
    ) -> Result<Self> {
        let kube = release.kube();
        remove(kube)?;
        fs::create_dir_all(work).with_context(|| format!("cannot create {}", work.display()))?;
        for (name, source) in CREDENTIAL {
            fs::copy(external.file(source), work.join(name)).context("the files of the credential")?;
        }
        release.change(&["gateway.replicas=1"], &values(steps, AT_FIRST)?)?;
        release.wait_until_ready()?;
        let gateway = node_of_the_only_gateway(kube)?;
        let nodes = kube.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"])?;
        let other = nodes.split_whitespace().find(|node| **node != gateway).unwrap_or(&gateway).to_owned();
        kube.kubectl(&["label", "--overwrite", "namespace", CALLERS, "egret.dev/egress=enabled"])?;
        kube.apply(&callers::objects(client, &other, CALLERS, OUTSIDE))?;
        callers::wait(kube, CALLERS, OUTSIDE, START)?;
        let (release, steps, work) = (release.clone(), steps.to_owned(), work.to_owned());
        let nodes = (other, gateway);
        let mut world = Self { release, external, steps, work, nodes, before: Mark::default() };
        world.before = world.mark()?;
        Ok(world)
    }

    /// The node that the callers run on, and the gateway's.
    pub fn nodes(&self) -> (&str, &str) {
        (&self.nodes.0, &self.nodes.1)
    }

    /// Takes away everything that a walk made, but for the values of the release, which are its owner's to restore.
    pub fn remove(&self) -> Result<()> {
        remove(self.release.kube())
    }

    /// How many requests the gateways have logged since the start.
    pub fn gateway_lines(&self) -> Result<usize> {
        Ok(self.since(Side::Gateway, &self.before)?.len())
    }

    /// What the tutorial says to look at: the last line of the log of the gateway's pod.
    pub fn last_line(&self) -> Result<Value> {
        let mut shell = Command::new("sh");
        shell.args(["-ec", LAST_LINE]).env("KUBECONFIG", self.release.kube().kubeconfig());
        let output = shell.env("PATH", self.release.kube().path()?).output().context("cannot run sh")?;
        let line = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(&line).with_context(|| {
            format!("`{LAST_LINE}` ended with {line:?} {}", String::from_utf8_lossy(&output.stderr))
        })
    }

    /// Makes a change that says whether it changed something, and waits until every gateway has another configuration.
    fn reconfigure(&self, change: impl FnOnce() -> Result<bool>) -> Result<()> {
        let before = self.versions()?;
        if !change()? {
            return Ok(());
        }
        wait::until("the changed configuration to be in force", IN_FORCE, || {
            let now = self.versions()?;
            Ok(before.iter().all(|(pod, version)| now.get(pod).is_none_or(|now| now > version)).then_some(()))
        })
    }

    /// The version of the configuration in force, of every gateway.
    fn versions(&self) -> Result<BTreeMap<String, u64>> {
        let pods = self.release.pods("istio-egressgateway")?;
        ensure!(!pods.is_empty(), "there is no gateway");
        let ask = |pod: String| {
            let text = self.release.egret(&pod, &["ask", "gateway", "/status"])?;
            let status: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
            let version = status["config_version"].as_u64();
            Ok((pod, version.with_context(|| format!("no config_version in {text}"))?))
        };
        pods.into_iter().map(ask).collect()
    }
}

/// The tutorial's commands.
pub const LAST_LINE: &str = "export EGRESS_POD=$(kubectl get pod -l istio=egressgateway -n istio-system -o \
    jsonpath='{.items[0].metadata.name}')\nkubectl -n istio-system logs $EGRESS_POD | tail -1";

impl Stage for OnCluster {
    type Mark = Mark;

    fn apply(&self, file: &str) -> Result<()> {
        if Path::new(file).file_name().is_some_and(|name| name == "mesh.yaml") {
            let kube = self.release.kube();
            let version = || {
                kube.kubectl(&[
                    "get",
                    "configmap",
                    "egret-mesh",
                    "-n",
                    NAMESPACE,
                    "-o",
                    "jsonpath={.metadata.resourceVersion}",
                ])
            };
            return self.reconfigure(|| {
                let before = version()?;
                self.release.change(&[], &values(&self.steps, file)?)?;
                Ok(version()? != before)
            });
        }
        let text = read(&self.steps, file)?.replace(PLACEHOLDER, &self.address());
        self.reconfigure(|| Ok(!self.release.kube().apply(&text)?.trim_end().ends_with(" unchanged")))
    }

    fn write_secret(&self) -> Result<()> {
        self.reconfigure(|| {
            let mut kubectl = self.release.kube().command("kubectl");
            kubectl.current_dir(&self.work).args([
                "create",
                "-n",
                NAMESPACE,
                "secret",
                "generic",
                "test.client",
            ]);
            kubectl.args(["--from-file=tls.key=client.key.pem", "--from-file=tls.crt=clientcert.pem"]);
            let output = kubectl.arg("--from-file=ca.crt=cacert.pem").output()?;
            ensure!(
                output.status.success(),
                "kubectl create secret: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            Ok(true)
        })
    }

    fn curl(&self, origin: Origin, arguments: &[&str]) -> Result<(String, Answer)> {
        let (namespace, name) = match origin {
            Origin::Workload(name) => name.split_once('/').context("a workload without namespace")?,
            Origin::Isolated(_) => (CALLERS, callers::ISOLATED),
            Origin::Host => (OUTSIDE, callers::OUTSIDE),
        };
        let target = format!("deploy/{name}");
        let mut command = self.release.kube().exec(namespace, &target, &["curl"]);
        let answer = curl::run(command.args(curl::OPTIONS).args(arguments))?;
        let of = if namespace == CALLERS { String::new() } else { format!("-n {namespace} ") };
        Ok((format!("kubectl exec {of}{target} -- curl -i {}", arguments.join(" ")), answer))
    }

    fn address(&self) -> String {
        self.external.address().to_string()
    }

    fn mark(&self) -> Result<Mark> {
        let pods = self.release.pods("istio-egressgateway")?;
        let length = |pod: String| Ok((pod.clone(), self.release.access_log_of(&pod)?.len()));
        let gateways = pods.into_iter().map(length).collect::<Result<_>>()?;
        Ok(Mark { gateways, external: self.external.log().mark() })
    }

    fn since(&self, side: Side, mark: &Mark) -> Result<Vec<Value>> {
        if side == Side::External {
            return self.external.log().since(mark.external);
        }
        let mut lines = Vec::new();
        for pod in self.release.pods("istio-egressgateway")? {
            let seen = mark.gateways.get(&pod).copied().unwrap_or_default();
            lines.extend(self.release.access_log_of(&pod)?.into_iter().skip(seen));
        }
        Ok(lines)
    }
}

/// Removes what an earlier walk left, also one that was killed.
pub fn remove(kube: &Kube) -> Result<()> {
    kube.kubectl(&["label", "namespace", CALLERS, "egret.dev/egress-"])?;
    kube.kubectl(&["delete", "namespace", OUTSIDE, "--ignore-not-found", "--wait=false"])?;
    let selector = format!("{}={}", callers::LABEL.0, callers::LABEL.1);
    let kinds = "deployments,serviceaccounts";
    kube.kubectl(&[
        "delete",
        kinds,
        "-n",
        CALLERS,
        "-l",
        &selector,
        "--wait",
        "--cascade=foreground",
        "--timeout=90s",
    ])?;
    for (namespace, object) in OBJECTS {
        // Without Egret's kinds there is nothing of them.
        let deleted = kube.kubectl(&["delete", "-n", namespace, object, "--ignore-not-found"]);
        if let Err(error) = deleted
            && !error.to_string().contains("the server doesn't have a resource type")
        {
            return Err(error);
        }
    }
    kube.kubectl(&["wait", "--for=delete", &format!("namespace/{OUTSIDE}"), "--timeout=90s"]).map(drop)
}

/// The node of the gateway, once the others of before have gone.
fn node_of_the_only_gateway(kube: &Kube) -> Result<String> {
    let pods = ["pods", "-n", NAMESPACE, "-l", "istio=egressgateway"];
    let list = kube.wait_for("there to be one gateway", &pods, START, |list| {
        list["items"].as_array().is_some_and(|items| items.len() == 1)
    })?;
    Ok(list["items"][0]["spec"]["nodeName"].as_str().context("the gateway is on no node")?.to_owned())
}

fn read(steps: &Path, file: &str) -> Result<String> {
    let path = steps.join(file);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// A file with the settings of the mesh, as the chart takes them: its `spec` is the value `meshConfig`.
fn values(steps: &Path, file: &str) -> Result<String> {
    let text = read(steps, file)?;
    let (_, spec) = text.split_once("\nspec:\n").with_context(|| format!("{file} has no spec"))?;
    Ok(format!("meshConfig:\n{spec}"))
}
