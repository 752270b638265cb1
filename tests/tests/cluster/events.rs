//! What is denied to a pod is to be read where people look: `kubectl get events`, `kubectl describe pod`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use egret_tests::{
    cluster::{
        installed::{Caller, Installed, NAMESPACE},
        plan::NODES,
    },
    external::External,
    wait,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);
/// A count is brought up to date once a minute.
const COUNTED: Duration = Duration::from_secs(90);

const SPACE: &str = "events";
const DENIALS: u64 = 20;

#[test]
fn denials_are_events_of_the_pod() -> Result<()> {
    let Some(egret) = super::installed()? else { return Ok(()) };
    let directory = TempDir::new()?;
    let external = External::start(&super::external_binary(), egret.cluster().internet(), directory.path())?;
    egret.namespace(SPACE, true)?;
    let policy = deny("events.test");
    egret.kube().apply(&policy)?;
    for (name, node) in [("denied", NODES[0]), ("allowed", NODES[1])] {
        egret.start_captured(&Caller { namespace: SPACE, name, node: Some(node), ..Caller::default() })?;
    }
    let url = format!("http://{}/status/418?token=secret", external.address());
    let call = |pod: &str, host: &str| egret.curl(SPACE, pod, &["--header", &format!("host: {host}"), &url]);
    wait::until("the policy to be in force", PATIENCE, || {
        Ok((call("denied", "events.test")?.status == Some(403)).then_some(()))
    })?;
    let allowed = call("allowed", "other.test")?;
    ensure!(allowed.status == Some(418), "{}", allowed.summary());

    // At once.
    let event = wait::until("an event of the pod", PATIENCE, || Ok(events(&egret)?.into_iter().next()))?;
    let pod = egret.kube().get(&["pod", "denied", "-n", SPACE])?;
    let regarding = json!({ "apiVersion": "v1", "kind": "Pod", "namespace": SPACE, "name": "denied", "uid": pod["metadata"]["uid"] });
    ensure!(event["regarding"] == regarding, "{event:#}");
    let related = json!({ "kind": "AuthorizationPolicy", "namespace": NAMESPACE, "name": "deny-events" });
    ensure!(event["related"] == related, "{event:#}");
    let expected = "GET of events.test:80 was denied, policy_denied: denied by rule 0 of AuthorizationPolicy istio-system/deny-events; to \
                    see why: egret explain --cluster --from events/denied GET http://events.test:80/";
    ensure!(event["type"] == "Warning" && event["note"] == expected, "{event:#}");
    ensure!(event["reportingController"] == "egret.dev/gateway", "{event:#}");
    let described = egret.kube().kubectl(&["describe", "pod", "denied", "-n", SPACE])?;
    ensure!(described.contains("EgressDenied") && described.contains(expected), "{described}");

    // Many are few events, which count them: a pod has tunnels to one or two gateways, and each tells of what it denied.
    let before = denials(&egret)?;
    for _ in before..DENIALS {
        ensure!(call("denied", "events.test")?.status == Some(403));
    }
    let expected = denials(&egret)?;
    ensure!(expected >= DENIALS, "{expected} denials in the access log");
    let mut last = Vec::new();
    let counted = wait::until("all of them to be counted", COUNTED, || {
        last = events(&egret)?;
        let counts = last.iter().map(|event| event["series"]["count"].as_u64().unwrap_or(1));
        Ok((counts.sum::<u64>() == expected).then_some(()))
    });
    counted.with_context(|| format!("{expected} denials; {last:#?}"))?;
    ensure!(last.len() <= 2, "{last:#?}");
    let other = last.iter().find(|event| event["regarding"]["name"] != "denied");
    ensure!(other.is_none(), "nothing was denied to it: {other:#?}");

    egret.kube().kubectl(&["delete", "authorizationpolicy", "deny-events", "-n", NAMESPACE])?;
    egret.remove_namespace(SPACE)
}

/// A policy that denies a host to everybody.
pub(crate) fn deny(host: &str) -> String {
    json!({ "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": { "name": "deny-events", "namespace": NAMESPACE },
        "spec": { "action": "DENY", "rules": [{ "to": [{ "operation": { "hosts": [host] } }] }] } })
    .to_string()
}

/// What the gateways said to pods of this namespace.
fn events(egret: &Installed) -> Result<Vec<Value>> {
    let list = egret.kube().get(&["events.events.k8s.io", "-n", SPACE])?;
    let all = list["items"].as_array().context("no list")?;
    Ok(all.iter().filter(|event| event["reason"] == "EgressDenied").cloned().collect())
}

/// Denials in the gateways' access logs.
fn denials(egret: &Installed) -> Result<u64> {
    let lines = egret.access_log()?;
    let of_pod = |line: &&Value| {
        line["authority"] == "events.test"
            && line["reason"] == "policy_denied"
            && line["principal"].as_str().is_some_and(|principal| principal.ends_with("/ns/events/sa/denied"))
    };
    Ok(lines.iter().filter(of_pod).count() as u64)
}
