//! The parts of Egret in a cluster, one pod at a time: a new one in place of it, whether it is ready, and what it says.
//!
//! Used by the cluster tests that break something.

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Result, bail};
use serde_json::Value;

use super::installed::{Installed, NAMESPACE};
use crate::wait;

/// What a pod gets until it is there, or is as it should be.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often a pod is asked.
const PAUSE: Duration = Duration::from_millis(500);

/// A part of Egret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its service account.
    pub account: &'static str,
    /// What `egret ready` calls it.
    pub role: &'static str,
}

/// The agents.
pub const AGENT: Part = Part { account: "egret-agent", role: "agent" };
/// The gateways.
pub const GATEWAY: Part = Part { account: "istio-egressgateway", role: "gateway" };
/// The CA.
pub const CA: Part = Part { account: "egret-ca", role: "ca" };

/// What `egret ready` says in a pod.
#[derive(Clone, Debug)]
pub struct Said {
    /// The pod's part is ready.
    pub ready: bool,
    /// The whole of it.
    pub text: String,
}

impl Installed {
    /// Deletes one pod of a part, the one on `node` if it has to be there, and returns the name of the one that comes in its
    /// place, which runs but may not be ready.
    pub fn renew(&self, part: Part, node: Option<&str>) -> Result<String> {
        let before: BTreeSet<String> = self.pods(part.account)?.into_iter().collect();
        let old = match node {
            Some(node) => self.agent_on(node)?,
            None => self.staying(&format!("spec.serviceAccountName={}", part.account))?,
        };
        self.kube().kubectl(&["delete", "pod", &old, "-n", NAMESPACE, "--wait=false"])?;
        self.next(part, node, &before)
    }

    /// Waits for a running pod of a part, on `node` if it has to be there, that is none of `before`.
    pub fn next(&self, part: Part, node: Option<&str>, before: &BTreeSet<String>) -> Result<String> {
        let on_node = node.map(|node| format!(",spec.nodeName={node}")).unwrap_or_default();
        let selector = format!("spec.serviceAccountName={}{on_node}", part.account);
        wait::until(&format!("a new pod of {}", part.account), PATIENCE, || {
            let list = self.kube().get(&["pods", "-n", NAMESPACE, "--field-selector", &selector])?;
            let pods = list["items"].as_array().into_iter().flatten();
            let running = pods.filter(|pod| is_running(pod));
            let mut names = running.filter_map(|pod| pod["metadata"]["name"].as_str());
            let found = names.find(|name| !before.contains(*name)).map(str::to_owned);
            if found.is_none() {
                thread::park_timeout(PAUSE);
            }
            Ok(found)
        })
    }

    /// Whether a pod is ready, and what is in the way.
    pub fn ready(&self, part: Part, pod: &str) -> Result<Said> {
        let output = self.exec(NAMESPACE, pod, &["/egret", "ready", part.role]).output()?;
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Ok(Said { ready: output.status.success(), text })
    }

    /// Waits until a pod is ready, or is not and says all of `words`.
    pub fn wait_for_said(&self, part: Part, pod: &str, ready: bool, words: &[&str]) -> Result<Said> {
        let mut last = String::new();
        let what = format!("{pod} to be {}ready and to say {words:?}", if ready { "" } else { "not " });
        let waited = wait::until(&what, PATIENCE, || {
            let said = self.ready(part, pod)?;
            if said.ready == ready && words.iter().all(|word| said.text.contains(word)) {
                return Ok(Some(said));
            }
            last = said.text;
            thread::park_timeout(PAUSE);
            Ok(None)
        });
        waited.map_err(|error| {
            let log = self.log(pod).unwrap_or_else(|error| error.to_string());
            error.context(format!("it said: {last}\nand its log:\n{log}"))
        })
    }

    /// The log of a pod.
    pub fn log(&self, pod: &str) -> Result<String> {
        self.kube().kubectl(&["logs", "-n", NAMESPACE, pod, "--tail=200"])
    }

    /// Waits until a line of the log of any of a part's pods has all of `words`.
    pub fn wait_for_log(&self, part: Part, words: &[&str]) -> Result<String> {
        wait::until(&format!("{} to log {words:?}", part.account), PATIENCE, || {
            for pod in self.pods(part.account)? {
                // One that is just being made, or gone, has none.
                let log = self.log(&pod).unwrap_or_default();
                let found = log.lines().rfind(|line| words.iter().all(|word| line.contains(word)));
                if let Some(line) = found {
                    return Ok(Some(line.to_owned()));
                }
            }
            thread::park_timeout(PAUSE);
            Ok(None)
        })
    }

    /// An error if a container of this pod was ever started again: what was mended has to go on by itself.
    pub fn never_restarted(&self, pod: &str) -> Result<()> {
        let found = self.kube().get(&["pod", pod, "-n", NAMESPACE])?;
        let count = &found["status"]["containerStatuses"][0]["restartCount"];
        if *count != 0 {
            bail!("{pod} was started again {count} times");
        }
        Ok(())
    }
}

fn is_running(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null()
        && pod["status"]["containerStatuses"][0]["state"]["running"].is_object()
}
