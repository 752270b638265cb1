//! Talking to a cluster, ours or another one, the way people do: with kubectl and helm.

use std::{
    env,
    ffi::OsString,
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{cluster::tools::Tools, wait};

/// How often states are asked for.
const INTERVAL: Duration = Duration::from_millis(200);

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

    /// A search path on which kubectl and helm are the ones used here.
    pub fn path(&self) -> Result<OsString> {
        let own = self.tools.path("kubectl").parent().map(Path::to_owned);
        let path = env::var_os("PATH").unwrap_or_default();
        Ok(env::join_paths(own.into_iter().chain(env::split_paths(&path)))?)
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

    /// The same with something to read.
    pub fn helm_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        self.run("helm", arguments, Some(input))
    }

    /// A command in a pod, which may be named as `deploy/NAME`.
    pub fn exec(&self, namespace: &str, pod: &str, command: &[&str]) -> Command {
        let mut kubectl = self.command("kubectl");
        kubectl.args(["exec", "-n", namespace, pod, "--"]).args(command);
        kubectl
    }

    /// Applies a text with any number of objects.
    pub fn apply(&self, yaml: &str) -> Result<String> {
        self.run("kubectl", &["apply", "-f", "-"], Some(yaml))
    }

    /// Creates what is in a text, without a look at schemas: for many objects at once.
    pub fn create(&self, text: &str) -> Result<String> {
        self.run("kubectl", &["create", "--validate=false", "-f", "-"], Some(text))
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
        let mut next = Instant::now();
        let waited = wait::until(what, patience, || {
            // A kubectl is not cheap.
            if Instant::now() < next {
                return Ok(None);
            }
            let found = self.get(arguments);
            next = Instant::now() + INTERVAL;
            match found {
                Ok(value) if reached(&value) => return Ok(Some(value)),
                Ok(value) => last = value["status"].to_string(),
                Err(error) => last = error.to_string(),
            }
            Ok(None)
        });
        waited.with_context(|| format!("kubectl get {}: {last}", arguments.join(" ")))
    }

    /// Waits until as many replicas of a Deployment or DaemonSet as are wanted are ready and current. An error shows its pods.
    pub fn wait_for_rollout(&self, namespace: &str, workload: &str, patience: Duration) -> Result<()> {
        let arguments = ["-n", namespace, workload];
        let found = self.wait_for(&format!("{workload} to be ready"), &arguments, patience, rolled_out);
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

/// Whether a Deployment or DaemonSet is what its specification says, and available.
fn rolled_out(workload: &Value) -> bool {
    let status = |name: &str| workload["status"][name].as_i64().unwrap_or_default();
    let current =
        status("observedGeneration") >= workload["metadata"]["generation"].as_i64().unwrap_or_default();
    let (wanted, counts) = match workload["spec"]["replicas"].as_i64() {
        Some(replicas) => (replicas, ["replicas", "updatedReplicas", "availableReplicas"]),
        None => (
            status("desiredNumberScheduled"),
            ["currentNumberScheduled", "updatedNumberScheduled", "numberAvailable"],
        ),
    };
    current && counts.into_iter().all(|count| status(count) == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn deployments_roll_out() {
        let deployment = |observed: i64, status: [i64; 3]| {
            json!({
                "metadata": {"generation": 2},
                "spec": {"replicas": 2},
                "status": {
                    "observedGeneration": observed,
                    "replicas": status[0],
                    "updatedReplicas": status[1],
                    "availableReplicas": status[2],
                },
            })
        };
        assert!(rolled_out(&deployment(2, [2, 2, 2])));
        assert!(!rolled_out(&deployment(1, [2, 2, 2])), "this is about the version before");
        assert!(!rolled_out(&deployment(2, [3, 2, 2])), "an old one is still there");
        assert!(!rolled_out(&deployment(2, [2, 1, 2])));
        assert!(!rolled_out(&deployment(2, [2, 2, 1])));
    }

    #[test]
    fn daemon_sets_roll_out() {
        let set = |available: i64| {
            json!({
                "metadata": {"generation": 1},
                "spec": {},
                "status": {
                    "observedGeneration": 1,
                    "desiredNumberScheduled": 2,
                    "currentNumberScheduled": 2,
                    "updatedNumberScheduled": 2,
                    "numberAvailable": available,
                },
            })
        };
        assert!(rolled_out(&set(2)));
        assert!(!rolled_out(&set(1)));
    }
}
