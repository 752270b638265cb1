//! `onAgentDown: BYPASS`, from the configuration to the kernel: shown, warned of, in force while no agent runs, and counted.

use std::time::Duration;

use anyhow::Result;
use egret_tests::{egret::Part, wait};

use crate::{Rig, traffic::Client};

const PATIENCE: Duration = Duration::from_secs(40);

const MESH: &str = "
apiVersion: egret.dev/v1alpha1
kind: MeshConfig
metadata: {name: default, namespace: istio-system}
spec:
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
  onAgentDown: BYPASS
";

#[test]
fn workloads_go_out_directly_where_that_was_chosen_and_only_then() -> Result<()> {
    let Some(mut rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &mut rig.world;
    world.egret.reconfigure(|| world.config.write("mesh.yaml", MESH))?;
    let status = world.egret.status()?;
    assert_eq!(status["gateway"]["on_agent_down"], "BYPASS");
    let problems = world.egret.config_problems()?;
    assert!(problems.iter().any(|problem| problem["code"] == "EG0320"), "{problems:?}");

    let inside = Client::workload(world)?;
    let lines = world.external.log().since(egret_tests::json_log::Mark::default())?;
    assert!(lines.iter().all(|line| line["tls"] == true), "directly while the agent runs: {lines:?}");
    world.egret.kill(Part::Supervisor)?;
    world.egret.process().wait(PATIENCE)?;
    let down = world.external.log().mark();
    // Only the gateway speaks TLS to the outside.
    world.external.log().wait_since(down, PATIENCE, |line| line["tls"] == false)?;

    world.restart()?;
    let back = world.external.log().mark();
    world.external.log().wait_since(back, PATIENCE, |line| line["tls"] == true)?;
    let counters = wait::until("an agent", PATIENCE, || {
        let status = world.egret.status()?;
        Ok(status["agent"]["counters"].as_object().cloned())
    })?;
    for name in ["bypassed_agent_down", "passed_agent_down"] {
        assert!(counters[name].as_u64() > Some(0), "{name}: {counters:?}");
    }
    inside.end().map(drop)
}
