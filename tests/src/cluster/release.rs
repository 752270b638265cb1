//! Egret's Helm release in a cluster, ours or somebody else's: installed, changed, waited for, asked and removed as a user does it.
//!
//! [`super::installed::Installed`] has one in a cluster of the tests; `cargo xtask cluster` also has one where `KUBECONFIG` points to.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    Kube,
    installed::{NAMESPACE, RELEASE, ROLLOUT, WORKLOADS},
};

/// The release, there or not.
#[derive(Clone, Debug)]
pub struct Release {
    kube: Kube,
    chart: PathBuf,
    /// Values that name the image.
    image: Vec<String>,
}

impl Release {
    /// The release of this chart, with values (`a.b=c`) that say where its image is.
    pub fn new(kube: &Kube, chart: &Path, image: Vec<String>) -> Self {
        Self { kube: kube.clone(), chart: chart.to_owned(), image }
    }

    /// The cluster's API.
    pub fn kube(&self) -> &Kube {
        &self.kube
    }

    /// `helm upgrade --install` with these values in place of all that were set before. It does not wait.
    pub fn upgrade(&self, values: &[&str]) -> Result<()> {
        let mut arguments = vec!["--install", "--create-namespace", "--reset-values"];
        arguments.extend(
            self.image
                .iter()
                .map(String::as_str)
                .chain(values.iter().copied())
                .flat_map(|value| ["--set", value]),
        );
        self.helm(&arguments, "")
    }

    /// `helm upgrade` of one that is there, with more values: some by name, some by YAML. It does not wait.
    pub fn change(&self, values: &[&str], yaml: &str) -> Result<()> {
        let mut arguments = vec!["--reuse-values", "--values", "-"];
        arguments.extend(values.iter().flat_map(|value| ["--set", value]));
        self.helm(&arguments, yaml)
    }

    fn helm(&self, arguments: &[&str], input: &str) -> Result<()> {
        let chart = self.chart.to_string_lossy();
        let upgrade = ["upgrade", RELEASE, &*chart, "--namespace", NAMESPACE];
        self.kube.helm_with(&[&upgrade, arguments].concat(), input).map(drop)
    }

    /// Which revision is in force; none where Egret is not installed.
    pub fn revision(&self) -> Result<Option<u64>> {
        let filter = format!("^{RELEASE}$");
        let arguments = ["list", "--namespace", NAMESPACE, "--all", "--filter", &filter, "--output", "json"];
        let text = self.kube.helm(&arguments)?;
        let list: Value =
            serde_json::from_str(&text).with_context(|| format!("helm list is no JSON: {text}"))?;
        let Some(release) = list.get(0) else { return Ok(None) };
        let revision = release["revision"].as_str().and_then(|revision| revision.parse().ok());
        revision.map(Some).with_context(|| format!("helm list says no revision: {text}"))
    }

    /// Everything as it was in an earlier revision, and the wait until it is.
    pub fn roll_back(&self, revision: u64) -> Result<()> {
        let arguments = ["rollback", RELEASE, &revision.to_string(), "--namespace", NAMESPACE, "--wait"];
        self.kube.helm(&arguments).map(drop)
    }

    /// New pods of everything, with the image that its name means now.
    pub fn restart(&self) -> Result<()> {
        self.kube.kubectl(&[&["rollout", "restart", "-n", NAMESPACE][..], &WORKLOADS].concat()).map(drop)
    }

    /// `helm uninstall`, which waits until every agent has released its node.
    pub fn uninstall(&self) -> Result<()> {
        let arguments = ["uninstall", RELEASE, "--namespace", NAMESPACE, "--ignore-not-found", "--wait"];
        self.kube.helm(&arguments).map(drop)
    }

    /// Waits until every part of Egret is ready and current.
    pub fn wait_until_ready(&self) -> Result<()> {
        WORKLOADS.iter().try_for_each(|workload| self.kube.wait_for_rollout(NAMESPACE, workload, ROLLOUT))
    }

    /// The pods of one of Egret's service accounts.
    pub fn pods(&self, account: &str) -> Result<Vec<String>> {
        let selector = format!("spec.serviceAccountName={account}");
        let list = self.kube.get(&["pods", "-n", NAMESPACE, "--field-selector", &selector])?;
        let names = list["items"].as_array().into_iter().flatten();
        Ok(names.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect())
    }

    /// What a part of Egret answers: `egret` in one of its pods.
    pub fn egret(&self, pod: &str, arguments: &[&str]) -> Result<String> {
        let output = self.kube.exec(NAMESPACE, pod, &["/egret"]).args(arguments).output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("egret {} in {pod}: {}\n{said}", arguments.join(" "), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The access log of a gateway, one JSON object a request.
    pub fn access_log_of(&self, pod: &str) -> Result<Vec<Value>> {
        let text = self.kube.kubectl(&["logs", "-n", NAMESPACE, pod])?;
        // Its own log is among it.
        let access = text.lines().filter(|line| line.starts_with('{'));
        access.map(|line| serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))).collect()
    }
}
