//! What is lost, one at a time, under a steady load: a gateway, a node, the CA, the API server, an agent. How long it is felt, and
//! that nothing goes out directly meanwhile.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use egret_tests::{
    cluster::{
        installed::{Caller, Installed, NAMESPACE},
        load::{Load, now},
        plan::NODES,
    },
    external::External,
    json_log::Mark,
    wait,
};
use serde_json::Value;
use tempfile::TempDir;

/// Requests a second. Each takes a second, so that there are as many tunnels at a time: both gateways carry half of them, which one
/// tunnel after the other would not do.
const RATE: u32 = 50;
/// What is felt of a lost gateway or node.
const FELT: Duration = Duration::from_secs(5);
/// What is felt of a lost agent: until the kubelet has started another one, on a busy machine.
const WITHOUT_AGENT: Duration = Duration::from_secs(30);
/// What anything gets that has no deadline of its own.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long there is no API server.
const OUTAGE: Duration = Duration::from_mins(1);
/// What a change gets that was made when the API server came back.
const IN_FORCE: Duration = Duration::from_secs(5);

/// Runs `lose` under a load on the first node, and looks at what has come out.
fn under_load(space: &str, lose: impl FnOnce(&Installed, &Load<'_>) -> Result<()>) -> Result<()> {
    let Some(egret) = super::installed()? else { return Ok(()) };
    if NODES.into_iter().any(|node| gateway_on(&egret, node).is_err()) {
        // One that was replaced by itself may be where the other one is; of new ones there is one on each node.
        egret.kube().kubectl(&["rollout", "restart", "deployment/istio-egressgateway", "-n", NAMESPACE])?;
        egret.wait_until_ready()?;
    }
    let directory = TempDir::new()?;
    let external = External::start(&super::external_binary(), egret.cluster().internet(), directory.path())?;
    let load = Load::start(&egret, &super::steady_binary(), space, NODES[0], RATE, &["/delay/1"])?;
    load.steady()?;
    lose(&egret, &load)?;
    let arrived = external.log().since(Mark::default())?;
    let direct = arrived.iter().filter(|line| super::peer(line) == Some(load.address())).count();
    ensure!(direct == 0, "{direct} of {} requests arrived from the pod itself", arrived.len());
    load.end()
}

/// A gateway's pod on a node.
fn gateway_on(egret: &Installed, node: &str) -> Result<Value> {
    let selector = format!("spec.serviceAccountName=istio-egressgateway,spec.nodeName={node}");
    let list = egret.kube().get(&["pods", "-n", NAMESPACE, "--field-selector", &selector])?;
    let pods = list["items"].as_array().into_iter().flatten();
    let mut ready = pods.filter(|pod| {
        pod["metadata"]["deletionTimestamp"].is_null()
            && pod["status"]["containerStatuses"][0]["ready"] == true
    });
    ready.next().cloned().with_context(|| format!("no gateway on {node}"))
}

#[test]
fn a_killed_gateway_is_felt_for_a_moment() -> Result<()> {
    under_load("lost-gateway", |egret, load| {
        for node in NODES {
            let gateway = gateway_on(egret, node)?;
            let container = gateway["status"]["containerStatuses"][0]["containerID"].as_str();
            let container = container.and_then(|id| id.strip_prefix("containerd://")).context("its id")?;
            let from = now();
            let kill = ["--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", container];
            egret.cluster().node(node)?.run("ctr", &kill)?;
            load.steady()?;
            egret.wait_until_ready()?;
            let seen = load.seen(from)?;
            println!("gateway on {node} killed: {}", seen.summary(from));
            // Those that it carried are lost with it.
            ensure!(!seen.failures.is_empty(), "it carried nothing: {}", seen.summary(from));
            ensure!(seen.over_after(from) < FELT, "{}", seen.summary(from));
        }
        Ok(())
    })
}

#[test]
fn a_killed_node_is_felt_for_less_than_5_seconds() -> Result<()> {
    under_load("lost-node", |egret, load| {
        // Both gateways' addresses are in use, and the load is not where the node is lost.
        let lost = NODES[1];
        gateway_on(egret, lost)?;
        let from = now();
        egret.cluster().cut_power(lost)?;
        let outcome = load.steady().and_then(|_| {
            // Also when Kubernetes has not noticed yet, and when it has: it takes it some 50 s.
            egret.kube().wait_for("the node to be given up", &["node", lost], 2 * PATIENCE, |node| {
                let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
                conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] != "True")
            })?;
            load.steady()?;
            load.seen(from)
        });
        // Whatever came of it: others use this cluster too.
        egret.cluster().restart_node(lost)?;
        egret.cluster().wait_for_nodes()?;
        egret.wait_until_ready()?;
        let seen = outcome?;
        println!("{lost} killed: {}", seen.summary(from));
        ensure!(!seen.failures.is_empty(), "its gateway carried nothing: {}", seen.summary(from));
        ensure!(seen.over_after(from) < FELT, "{}", seen.summary(from));
        let back = load.steady()?;
        load.seen(back)?.ensure_none_failed(back)
    })
}

#[test]
fn without_the_ca_enrolled_pods_go_on_and_new_ones_wait() -> Result<()> {
    const SPACE: &str = "lost-ca";
    under_load(SPACE, |egret, load| {
        let from = now();
        let scale = |replicas: &str| {
            egret.kube().kubectl(&["scale", "-n", NAMESPACE, "deployment/egret-ca", replicas]).map(drop)
        };
        scale("--replicas=0")?;
        wait::until("the CA to be gone", PATIENCE, || Ok(egret.pods("egret-ca")?.is_empty().then_some(())))?;
        let late = Caller { namespace: SPACE, name: "late", node: Some(NODES[0]), ..Caller::default() };
        egret.start(&late)?;
        let url = format!("http://{}/status/200", egret_tests::cluster::plan::EXTERNAL);
        let ask = || egret.curl(SPACE, "late", &["-m", "5", &url]);
        let without = ask()?;
        ensure!(without.status != Some(200), "served without a certificate: {}", without.summary());
        load.steady()?;
        scale("--replicas=1")?;
        egret.wait_until_ready()?;
        let back = now();
        wait::until("the new pod to be served", PATIENCE, || {
            Ok(ask().is_ok_and(|answer| answer.status == Some(200)).then_some(()))
        })?;
        println!("a pod that was started without CA is served {} ms after its return", now() - back);
        let seen = load.seen(from)?;
        println!("CA away: {}", seen.summary(from));
        seen.ensure_none_failed(from)
    })
}

#[test]
fn a_minute_without_api_server_is_not_felt_and_changes_are_in_force_at_once() -> Result<()> {
    const SPACE: &str = "lost-api";
    // A rule for this namespace's pods alone.
    let rule = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {SPACE}, namespace: {NAMESPACE}}}\n\
         spec: {{selector: {{matchLabels: {{istio: egressgateway}}}}, action: DENY,\n\
         rules: [{{from: [{{source: {{namespaces: [{SPACE}]}}}}], to: [{{operation: {{hosts: [closed.test]}}}}]}}]}}\n"
    );
    under_load(SPACE, |egret, load| {
        let caller = Caller { namespace: SPACE, name: "caller", node: Some(NODES[0]), ..Caller::default() };
        egret.start_captured(&caller)?;
        let url = format!("http://{}/status/200", egret_tests::cluster::plan::EXTERNAL);
        let ask = || egret.curl(SPACE, "caller", &["-m", "5", "-H", "host: closed.test", &url]);
        ensure!(ask()?.status == Some(200), "before the rule: {}", ask()?.summary());
        let from = load.steady()?;
        egret.cluster().control().stop("kube-apiserver")?;
        let stopped = Instant::now();
        thread::park_timeout(OUTAGE);
        egret.cluster().control().start("kube-apiserver")?;
        egret.cluster().wait_for_api_server()?;
        let returned = Instant::now();
        println!("the API server was away for {:?}", returned - stopped);
        // Until it knows the kind again.
        wait::until("the rule to be taken", PATIENCE, || Ok(egret.kube().apply(&rule).ok()))?;
        let applied = returned.elapsed();
        let in_force = wait::until("the rule to be in force", PATIENCE, || {
            Ok(ask().is_ok_and(|answer| answer.status == Some(403)).then(|| returned.elapsed()))
        });
        let removed = egret.kube().kubectl(&["delete", "authorizationpolicy", "-n", NAMESPACE, SPACE]);
        let in_force = in_force?;
        removed?;
        let seen = load.seen(from)?;
        println!(
            "API server away: {}; rule applied after {applied:?}, in force after {in_force:?}",
            seen.summary(from)
        );
        ensure!(in_force < IN_FORCE, "in force {in_force:?} after the return, applied after {applied:?}");
        seen.ensure_none_failed(from)
    })
}

#[test]
fn a_deleted_agent_is_replaced_and_nothing_goes_out_meanwhile() -> Result<()> {
    under_load("lost-agent", |egret, load| {
        let agent = egret.agent_on(NODES[0])?;
        let from = now();
        egret.kube().kubectl(&["delete", "pod", "-n", NAMESPACE, &agent, "--grace-period=0", "--force"])?;
        load.steady()?;
        egret.wait_until_ready()?;
        let seen = load.seen(from)?;
        println!("agent deleted: {}", seen.summary(from));
        // Not a word of it would mean that the old one went on.
        ensure!(!seen.failures.is_empty() && seen.over_after(from) < WITHOUT_AGENT, "{}", seen.summary(from));
        ensure!(egret.agent_on(NODES[0])? != agent);
        let back = load.steady()?;
        load.seen(back)?.ensure_none_failed(back)
    })
}
