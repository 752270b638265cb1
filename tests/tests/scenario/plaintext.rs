//! After the upgrade no byte of the request is readable between agent, gateway and external service. Before it, it is,
//! which shows that the capture would have seen it.
//!
//! The workload has its own namespace, so that the first leg, from curl to the agent, is not on the host's interfaces.

use anyhow::{Context as _, Result};
use egret_tests::{
    capture::{Capture, Report},
    scenario::World,
};

use crate::{Rig, marker};

/// One request with the marker in path, header and body, and thus also in the answer.
fn request(world: &World, marker: &str) -> Result<Report> {
    let capture = Capture::start(&[marker])?;
    let address = world.external.address();
    let answer = world.egret.curl(
        "default/sleep",
        true,
        &[
            "-H",
            "host: test.com",
            "-H",
            &format!("x-marker: {marker}"),
            "-d",
            &format!("body={marker}"),
            &format!("http://{address}/anything/{marker}"),
        ],
    )?;
    assert_eq!(answer.status, Some(200), "{}\n{}", answer.summary(), answer.stderr);
    assert!(answer.body.contains(marker));
    let report = capture.stop()?;
    assert_eq!(report.dropped, 0, "the capture lost frames and proves nothing");
    Ok(report)
}

fn data_to(report: &Report, port: u16) -> u64 {
    report.data_to_port.get(&port).copied().unwrap_or_default()
}

#[test]
fn nothing_is_readable_after_the_upgrade() -> Result<()> {
    let Some(mut rig) = Rig::configured("4-egress-gateway")? else { return Ok(()) };
    let world = &mut rig.world;
    let link = world.external.namespace().host_link().to_owned();
    let tunnel = world.egret.tunnel_port();

    let before = request(world, &marker("before"))?;
    let readable = before.hits.iter().filter(|hit| hit.interface == link && hit.destination_port == Some(80));
    assert!(readable.count() > 0, "the control failed: no plaintext seen on {link}: {before:?}");
    let in_tunnel = before.hits.iter().find(|hit| hit.destination_port == Some(tunnel));
    assert_eq!(in_tunnel, None, "plaintext between agent and gateway");

    world.configure_up_to("5-mutual-tls")?;
    let after = request(world, &marker("after"))?;
    assert_eq!(after.hits, [], "the request was readable after the upgrade");
    assert!(data_to(&after, tunnel) > 0, "the capture did not see the tunnel: {after:?}");
    assert!(data_to(&after, 443) > 0, "the capture did not see the call to the external service: {after:?}");

    let line = world.external.log().since(egret_tests::json_log::Mark::default())?;
    let last = line.last().context("the external service saw nothing")?;
    assert_eq!((&last["tls"], &last["client"]), (&true.into(), &"test.client".into()));
    Ok(())
}
