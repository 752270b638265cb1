//! The walk of `cargo xtask cluster demo`, step by step: `sleep` and the gateway on different nodes, and the tutorial's own commands.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use egret_tests::{
    cluster::installed::Installed,
    egret,
    external::External,
    scenario::{self, OUTSIDE, OnCluster, Outcome, STEPS, Step, on_cluster::Client},
    wait,
};
use tempfile::TempDir;

#[test]
fn every_step_passes() -> Result<()> {
    let Some(egret) = super::installed()? else { return Ok(()) };
    let directory = TempDir::new()?;
    let external = External::start(
        &super::external_binary(),
        egret.cluster().internet(),
        &directory.path().join("external"),
    )?;
    let before = egret.release().revision()?.context("Egret is not installed")?;
    let steps = egret::workspace().join("deploy/demo");
    let world = OnCluster::start(egret.release(), external, &Client::of_tests(), &steps, directory.path());
    let walked = world.and_then(|world| {
        let walked = walk(&egret, &world);
        walked.and(world.remove())
    });
    // The next test finds Egret as this one did, however it went.
    let restored = egret.release().roll_back(before);
    walked.and(restored)
}

fn walk(egret: &Installed, world: &OnCluster) -> Result<()> {
    let (callers, gateway) = world.nodes();
    ensure!(callers != gateway, "sleep and the gateway are both on {gateway}");
    let mut lines = 0;
    // A captured request comes after the one from outside: had that been captured, its line would be there by now.
    for step in STEPS.iter().chain([&OUTSIDE, &STEPS[STEPS.len() - 1]]) {
        let outcome = scenario::run(world, step).with_context(|| step.title.to_owned())?;
        passed(step, &outcome)?;
        if let [line] = outcome.gateway.as_slice() {
            lines += 1;
            let shown = world.last_line()?;
            ensure!(shown == *line, "{}: the tutorial's command shows {shown}, not {line}", step.title);
        }
    }
    ensure!(world.gateway_lines()? == lines, "the gateway logged what no step sent");
    what_the_command_line_says(egret)
}

fn passed(step: &Step, outcome: &Outcome) -> Result<()> {
    ensure!(
        outcome.failures.is_empty(),
        "{}\n$ {}\n{}\n{}\ngateway: {:#?}\nexternal: {:#?}",
        step.title,
        outcome.command,
        outcome.answer.summary(),
        outcome.failures.join("\n"),
        outcome.gateway,
        outcome.external,
    );
    Ok(())
}

/// From outside of the cluster.
fn what_the_command_line_says(egret: &Installed) -> Result<()> {
    let run = |arguments: &[&str]| -> Result<String> {
        let mut command = Command::new(egret::binary()?);
        let output = command.args(arguments).arg("--kubeconfig").arg(egret.kube().kubeconfig()).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    };
    for words in [
        ["default", "sleep", "policy_denied", "not_registered"],
        ["default", "other", "outbound|443||test.com", "PassthroughCluster"],
    ] {
        wait::until("the flows to be told", std::time::Duration::from_secs(10), || {
            let flows = run(&["flows", "-o", "json"])?;
            Ok(words.iter().all(|word| flows.contains(word)).then_some(()))
        })
        .with_context(|| {
            format!("{words:?} are not all in the flows: {}", run(&["flows"]).unwrap_or_default())
        })?;
    }
    let explained = run(&["explain", "--from", "default/sleep", "GET", "http://test.com/headers"])?;
    ensure!(explained.contains("istio-system/test"), "explain does not name the policy: {explained}");
    let status = run(&["status"])?;
    ensure!(status.contains("REGISTRY_ONLY") && status.contains("none refused"), "{status}");
    Ok(())
}
