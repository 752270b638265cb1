//! Talking to a cluster, ours or another one, the way people do: with kubectl and helm.

use std::{
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{cluster::tools::Tools, wait};

/// A cluster's API, with the identity of a kubeconfig.
#[derive(Clone, Debug)]
pub struct Kube {
    tools: Tools,
    kubeconfig: PathBuf,
}

impl Kube {
    /// The cluster of a kubeconfig.
    pub fn new(tools: &Tools, kubeconfig: &Path) -> Self {
        Self { tools: tools.clone(), kubeconfig: kubeconfig.to_owned() }
    }

    /// The kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A kubectl command, for callers that need more than its output.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.tools.path(program));
        command.env("KUBECONFIG", &self.kubeconfig).stdin(Stdio::null());
        command
    }

    /// Runs kubectl to its end; what it wrote.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.run("kubectl", arguments, None)
    }

    /// Runs helm to its end; what it wrote.
    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        self.run("helm", arguments, None)
    }

    /// Applies a text with any number of objects.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        self.run("kubectl", &["apply", "-f", "-"], Some(yaml))
    }

    /// An object or a list, as `kubectl get` names it: `["pods", "-n", "x"]`.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl(&[&["get", "-o", "json"], arguments].concat())?;
        serde_json::from_str(&text).with_context(|| format!("kubectl get {arguments:?} is no JSON"))
    }

    /// Waits for a state of an object or a list, which may not be there yet. The error says how it was at the end.
    pub fn wait_for(
        &self,
        what: &str,
        arguments: &[&str],
        patience: Duration,
        mut reached: impl FnMut(&Value) -> bool,
    ) -> Result<Value> {
        let mut last = String::from("it was never seen");
        let waited = wait::until(what, patience, || match self.get(arguments) {
            Ok(value) if reached(&value) => Ok(Some(value)),
            Ok(value) => {
                last = value["status"].to_string();
                Ok(None)
            }
            Err(error) => {
                last = error.to_string();
                Ok(None)
            }
        });
        waited.with_context(|| format!("kubectl get {}: {last}", arguments.join(" ")))
    }

    /// Waits until as many replicas of a Deployment or DaemonSet as are wanted are ready and current. An error shows its pods.
    pub fn wait_for_rollout(&self, namespace: &str, workload: &str, patience: Duration) -> Result<()> {
        let seconds = format!("--timeout={}s", patience.as_secs());
        let found = self.kubectl(&["rollout", "status", "-n", namespace, workload, &seconds]);
        found.map(drop).map_err(|error| {
            let mut text = String::new();
            for arguments in
                [&["get", "pods", "-o", "wide"][..], &["get", "events", "--sort-by=lastTimestamp"]]
            {
                let shown = self.kubectl(&[arguments, &["-n", namespace]].concat());
                let _ = writeln!(text, "{}", shown.unwrap_or_else(|error| error.to_string()));
            }
            error.context(format!("{workload} in {namespace} is not ready:\n{text}"))
        })
    }

    fn run(&self, program: &str, arguments: &[&str], input: Option<&str>) -> Result<String> {
        let mut command = self.command(program);
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
        if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
            pipe.write_all(input.as_bytes()).with_context(|| format!("cannot write to {program}"))?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "`{program} {}` failed ({}): {}",
                arguments.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
