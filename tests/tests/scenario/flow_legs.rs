//! `egret flow` finds the leg that is slow: the server, the workload, the tunnel.
//!
//! Everything is in a network namespace of the test's own, whose loopback carries the tunnels and nothing else: the workload has another
//! one, and the external service is behind a link.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use egret_tests::{process, scenario::World, wait};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use crate::Rig;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn the_slow_leg_is_found() -> Result<()> {
    // Only this thread, and what it starts, moves into the namespace.
    thread::spawn(in_a_network_of_its_own).join().expect("no panic")
}

fn in_a_network_of_its_own() -> Result<()> {
    if !egret_tests::privileges::kernel_or_skip("flow legs") {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNET)?;
    process::run("ip", &["link", "set", "lo", "up"])?;
    let Some(rig) = Rig::start()? else { return Ok(()) };
    let world = &rig.world;
    let server = flow(world, &["delay/1"])?;
    judge(world, &server, "server", "waiting for the external server")?;
    ensure!(server["legs"]["upstream"]["first_byte_us"].as_u64() > Some(1_000_000), "{server:#}");
    // Each run is a workload of its own, with connections of its own.
    ensure!(server["legs"]["tunnel"]["reused"] == false, "{server:#}");

    // 64 MiB at 16 MiB a second: far more than the buffers of the two sockets hold, which grow to 36 MiB by default
    // (net.ipv4.tcp_rmem and tcp_wmem). Of less, nothing may ever have to wait.
    let workload = flow(world, &["bytes/67108864", "--limit-rate", "16M"])?;
    judge(world, &workload, "workload", "waiting for the workload")?;

    // 4 MiB at 2 MB a second. A qdisc that must not be waited out is taken away with the namespace.
    process::run(
        "tc",
        &["qdisc", "add", "dev", "lo", "root", "tbf", "rate", "16mbit", "burst", "128k", "latency", "1s"],
    )?;
    let tunnel = flow(world, &["bytes/4194304"])?;
    judge(world, &tunnel, "tunnel", "in the tunnel between agent and gateway")
}

/// Asks the external service as a workload, and returns the flow that this was, when both sides have all of it.
fn flow(world: &World, request: &[&str]) -> Result<Value> {
    let (path, options) = request.split_first().context("no request")?;
    let url = format!("http://{}/{path}", world.external.address());
    let answer = world.egret.curl("default/sleep", true, &[&[url.as_str()], options].concat())?;
    ensure!(answer.status == Some(200), "{path}: {}", answer.summary());
    wait::until("the flow to end", PATIENCE, || {
        let newest = world.egret.json("flows", &["--limit", "1"])?;
        let id = newest[0]["id"].as_str().context("no flow")?;
        // Enough of it to be the only one.
        let flow = world.egret.json("flow", &[&id[..12]])?;
        Ok(["agent", "gateway"].iter().all(|side| flow[side]["duration_ms"].is_u64()).then_some(flow))
    })
}

/// The leg has most of the time, its figures are there, and people are told so.
fn judge(world: &World, flow: &Value, leg: &str, sentence: &str) -> Result<()> {
    let time = &flow["time"];
    let of = |name: &str| time[format!("{name}_us")].as_u64().context("no time");
    ensure!(of(leg)? * 10 > of("total")? * 8, "{leg} is slow, and not: {time:#}\n{flow:#}");
    let parts = ["workload", "tunnel", "server", "undivided", "egret"];
    let sum = parts.iter().map(|part| of(part)).sum::<Result<u64>>()?;
    ensure!(sum == of("total")?, "{time:#}");
    for leg in ["workload", "tunnel", "upstream"] {
        ensure!(flow["legs"][leg]["tcp"]["rtt_us"].as_u64() > Some(0), "{leg}: {flow:#}");
    }
    let story = world.egret.flow_story(flow["id"].as_str().context("no id")?)?;
    ensure!(story.contains(sentence), "{sentence} in\n{story}");
    Ok(())
}
