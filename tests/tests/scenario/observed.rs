//! Flows that nobody but the kernel sees: connections to bypassed ranges, and calls that are refused. And who opened the others.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use egret_tests::{scenario::World, wait};
use serde_json::{Value, json};

use crate::Rig;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn bypassed_connections_and_refused_calls_are_flows() -> Result<()> {
    let Some(rig) = Rig::start()? else { return Ok(()) };
    let world = &rig.world;
    let url = format!("http://{}/bytes/5000", world.external.address());

    // First it is captured: the flow names the process.
    let arguments = [url.as_str()];
    let captured = world.egret.curl("default/sleep", false, &arguments)?;
    ensure!(captured.status == Some(200), "{}", captured.summary());
    let flow = newest(world, &[])?.context("a captured flow")?;
    ensure!(flow["verdict"] == "allowed" && flow["process"]["name"] == "curl", "{flow:#}");
    ensure!(newest(world, &["--verdict", "bypassed"])?.is_none());

    bypass(world)?;
    let written = ["-w", "\n%{size_request} %{size_header} %{size_download}"];
    // The agent takes the configuration over by itself.
    let (answer, flow) = wait::until("a bypassed flow", PATIENCE, || {
        let answer = world.egret.curl("default/sleep", false, &[&arguments[..], &written].concat())?;
        // The kernel's word about its end comes a moment after it.
        let flow = || newest(world, &["--verdict", "bypassed"]);
        if flow()?.is_none() {
            return Ok(None);
        }
        let ended = |flow: &Value| flow["duration_ms"].is_u64();
        wait::until("its end", PATIENCE, || Ok(flow()?.filter(ended))).map(|flow| Some((answer, flow)))
    })?;
    let last = answer.body.lines().last().context("sizes")?;
    let sizes: Vec<u64> = last.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [request, header, download] = sizes[..] else { anyhow::bail!("{last}") };
    ensure!(flow["sent"] == request && flow["received"] == header + download, "{last}: {flow:#}");
    ensure!(flow["reason"] == "bypassed" && flow["detail"] == "bypassed_range", "{flow:#}");
    ensure!(
        flow["process"]["name"] == "curl" && flow["workload"] == "spiffe://cluster.local/ns/default/sa/sleep"
    );
    ensure!(flow["original_destination"] == format!("{}:80", world.external.address()), "{flow:#}");
    ensure!(
        flow["gateway"].is_null() && flow["legs"]["workload"]["connect_us"].as_u64() > Some(0),
        "{flow:#}"
    );
    let story = world.egret.flow_story(flow["id"].as_str().context("no id")?)?;
    for part in ["bypassed: bypassed", "curl (pid ", "connected in "] {
        ensure!(story.contains(part), "{part} in\n{story}");
    }
    // It is shown where it is asked for, and else not.
    let shown = |arguments: &[&str]| -> Result<bool> {
        let flows = world.egret.json("flows", arguments)?;
        Ok(flows.as_array().context("a list")?.iter().any(|shown| shown["id"] == flow["id"]))
    };
    ensure!(!shown(&[])? && shown(&["--bypassed"])? && shown(&["--reason", "bypassed"])?);

    // UDP has nowhere to go: one flow, however often it is tried.
    let call = "send no 203.0.113.99:443\\n";
    let script = format!("printf '{}' | {}", call.repeat(3), env!("CARGO_BIN_EXE_connector"));
    let output = world.egret.exec("default/sleep", false).args(["sh", "-c", &script]).output()?;
    ensure!(output.stdout == b"errno 111\n".repeat(3), "{output:?}");
    let refused = wait::until("the refused flow", PATIENCE, || {
        let flow = newest(world, &["--reason", "kernel_refused"])?;
        Ok(flow.filter(|flow| flow["attempts"] == 3))
    })?;
    ensure!(refused["verdict"] == "denied" && refused["detail"] == "refused_datagram", "{refused:#}");
    ensure!(
        refused["original_destination"] == "203.0.113.99:443" && refused["process"]["name"] == "connector"
    );

    let status = world.egret.status()?;
    ensure!(status["agent"]["counters"]["event_lost"] == json!(0), "{status:#}");
    Ok(())
}

fn newest(world: &World, arguments: &[&str]) -> Result<Option<Value>> {
    let flows = world.egret.json("flows", &[arguments, &["--limit", "1"]].concat())?;
    Ok(flows.get(0).cloned())
}

/// Makes the external service one that workloads reach directly.
fn bypass(world: &World) -> Result<()> {
    let mesh = std::fs::read_to_string(world.config.path().join("mesh.yaml"))?;
    let range = format!("spec:\n  bypass: [{}/32]\n", world.external.address());
    world.egret.reconfigure(|| world.config.write("mesh.yaml", &mesh.replace("spec:\n", &range)))
}
