//! Every step of the demo, in order.

use anyhow::Result;
use egret_tests::scenario::{OUTSIDE, STEPS};

use crate::{Rig, passed};

#[test]
fn every_step_passes() -> Result<()> {
    let Some(mut rig) = Rig::start()? else { return Ok(()) };
    let world = &mut rig.world;
    for step in STEPS {
        passed(step.title, &world.run(step)?);
    }
    passed(OUTSIDE.title, &world.run(&OUTSIDE)?);
    // A captured request after it: had the one from outside been captured, its line would be there by now.
    passed(STEPS[STEPS.len() - 1].title, &world.run(&STEPS[STEPS.len() - 1])?);
    assert!(world.gateway_lines_are_complete()?);

    let flows = world.egret.flows()?.to_string();
    for word in ["ns/default/sa/sleep", "ns/default/sa/other", "policy_denied", "outbound|443||test.com"] {
        assert!(flows.contains(word), "no {word} in the flows: {flows}");
    }
    let explained = world.explain("GET", "http://test.com/headers")?;
    assert!(explained.contains("istio-system/test"), "explain does not name the policy: {explained}");
    let allowed = world.explain("GET", "http://test.com/status/200")?;
    assert!(allowed.contains("outbound|443||test.com"), "explain does not name the cluster: {allowed}");
    Ok(())
}
