//! Taking Egret away: `helm uninstall` under enrolled pods leaves nothing on any node; agents that are only deleted leave enrolled pods
//! closed, until they are cleaned up; and an agent that cannot answer is named.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, Result, ensure};
use egret_tests::{
    cluster::{
        installed::{Caller, Installed, NAMESPACE, RELEASE, condition},
        parts::AGENT,
        plan::NODES,
    },
    curl::Answer,
    egret::binary,
    external::External,
    wait,
};
use tempfile::TempDir;

const ENROLLED: &str = "removal";
const FREE: &str = "removal-free";
const PATIENCE: Duration = Duration::from_secs(30);
/// The removal gives up after this time, in seconds.
const TIMEOUT: &str = "uninstall.timeoutSeconds=10";

#[test]
fn egret_is_taken_away_and_leaves_nothing() -> Result<()> {
    let Some(egret) = super::installed()? else { return Ok(()) };
    let directory = TempDir::new()?;
    let external = External::start(&super::external_binary(), egret.cluster().internet(), directory.path())?;
    let url = format!("http://{}/status/418", external.address());
    for (namespace, enrolled) in [(ENROLLED, true), (FREE, false)] {
        egret.namespace(namespace, enrolled)?;
        for node in NODES {
            egret.start(&Caller { namespace, name: node, node: Some(node), ..Caller::default() })?;
        }
    }
    captured(&egret)?;

    agents_are_only_deleted(&egret, &url)?;
    egret.upgrade(&[TIMEOUT])?;
    captured(&egret)?;
    one_agent_cannot_answer(&egret, &url)?;

    // Namespaces can be deleted without Egret: nothing holds them.
    egret.remove_namespace(FREE)?;
    egret.upgrade(&[])?;
    captured(&egret)?;
    through(&egret, &url, true)?;
    egret.remove_namespace(ENROLLED)
}

/// The way that is not the way: pods stay closed, whatever else is deleted, until the nodes are cleaned up.
fn agents_are_only_deleted(egret: &Installed, url: &str) -> Result<()> {
    let programs = egret.cluster().programs_on_pods()?;
    ensure!(!programs.is_empty(), "captured by no program");
    egret.kube().kubectl(&["delete", "daemonset", "egret-agent", "-n", NAMESPACE, "--wait"])?;
    wait::until("the agents to end", PATIENCE, || Ok(egret.pods(AGENT.account)?.is_empty().then_some(())))?;
    closed(egret, url)?;
    egret.kube().helm(&["uninstall", RELEASE, "--namespace", NAMESPACE, "--timeout", "60s"])?;
    closed(egret, url)?;
    let binary = binary()?;
    for node in NODES {
        let node = egret.cluster().node(node)?;
        node.run(&binary.to_string_lossy(), &["agent", "--cleanup"])?;
    }
    through(egret, url, false)?;
    egret.cluster().wait_for_no_residue(&programs)
}

/// The removal fails, says where and how to go on; then it can be tried again.
fn one_agent_cannot_answer(egret: &Installed, url: &str) -> Result<()> {
    let programs = egret.cluster().programs_on_pods()?;
    let [_, node] = NODES;
    let signal = |signal: &str| {
        // Its program in the image; the node has no other of this name.
        egret.cluster().node(node)?.run("pkill", &["--signal", signal, "--full", "^/egret agent "])
    };
    signal("STOP")?;
    let uninstall =
        || egret.kube().helm(&["uninstall", RELEASE, "--namespace", NAMESPACE, "--timeout", "90s"]);
    let failed = uninstall();
    let log = egret.kube().kubectl(&["logs", "-n", NAMESPACE, "job/egret-uninstall"]);
    signal("CONT")?;
    ensure!(failed.is_err(), "removed without {node}");
    let log = log?;
    for words in ["1 of 2 agents have not", &format!("node {node}: egret-agent-"), "egret agent --cleanup"] {
        ensure!(log.contains(words), "no {words:?} in\n{log}");
    }
    uninstall().context("after the agent could answer again")?;
    for node in NODES {
        let pod = egret.kube().get(&["pod", node, "-n", ENROLLED])?;
        let said = condition(&pod).context("no condition")?;
        ensure!(said["status"] == "False" && said["reason"] == "Removed", "{said}");
    }
    through(egret, url, false)?;
    egret.cluster().wait_for_no_residue(&programs)
}

fn captured(egret: &Installed) -> Result<()> {
    NODES.into_iter().try_for_each(|node| egret.wait_for_condition(ENROLLED, node, "True"))
}

fn call(egret: &Installed, namespace: &str, pod: &str, url: &str) -> Result<Answer> {
    egret.curl(namespace, pod, &["-H", &format!("host: {pod}.{namespace}.test"), url])
}

/// Everybody gets an answer, and the enrolled by the gateway, or directly.
fn through(egret: &Installed, url: &str, gateway: bool) -> Result<()> {
    for node in NODES {
        let answer = call(egret, ENROLLED, node, url)?;
        ensure!(answer.status == Some(418), "{node}: {}", answer.summary());
    }
    if !gateway {
        return Ok(());
    }
    let expected = NODES.map(|node| format!("{node}.{ENROLLED}.test"));
    wait::until("the gateways to log them", PATIENCE, || {
        let gateways = egret.access_log()?;
        let logged: BTreeSet<&str> = gateways.iter().filter_map(|line| line["authority"].as_str()).collect();
        Ok(expected.iter().all(|name| logged.contains(&**name)).then_some(()))
    })
}

/// Enrolled pods are refused, at once; others are not touched.
fn closed(egret: &Installed, url: &str) -> Result<()> {
    for node in NODES {
        let refused = call(egret, ENROLLED, node, url)?;
        // curl(1): 7, failed to connect.
        ensure!(refused.status.is_none() && refused.exit == Some(7), "{node}: {}", refused.summary());
        let free = call(egret, FREE, node, url)?;
        ensure!(free.status == Some(418), "{node}: {}", free.summary());
    }
    Ok(())
}
