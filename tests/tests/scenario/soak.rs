//! One workload that makes many new connections, through the whole product, in a namespace where TIME_WAIT is never cut
//! short: its source ports do not run out.
//!
//! The long one is left out of ordinary runs: `cargo xtask soak`.

use std::process::Stdio;

use anyhow::{Context as _, Result};
use egret_tests::scenario::World;
use serde_json::{Value, json};

use crate::Rig;

/// Runs the caller as a workload with a network namespace of its own, and returns what it says.
fn call(world: &World, arguments: &[&str]) -> Result<Value> {
    let mut command = world.egret.exec("default/sleep", true);
    command.arg(env!("CARGO_BIN_EXE_caller")).args(arguments).arg("--no-reuse");
    let output = command.arg(format!("{}:80", world.external.address())).stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).with_context(|| format!("the caller ({}) said: {text}", output.status))
}

fn assert_all_answered(report: &Value, expected: u64) {
    let failed = (&report["refused"], &report["unanswered"]);
    assert_eq!(failed, (&json!({}), &json!({})), "{report:#}");
    assert_eq!(
        (&report["connected"], &report["answered"]),
        (&json!(expected), &json!(expected)),
        "{report:#}"
    );
}

/// Few source ports instead of many connections: with one listener port, the 501st would fail.
#[test]
fn source_ports_do_not_run_out() -> Result<()> {
    let Some(rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let report = call(&rig.world, &["--rate", "250", "--seconds", "10", "--ports", "40000 40499"])?;
    assert_all_answered(&report, 2500);
    // All at the same time: none was forgotten early, and so none of the ports used twice for one listener port.
    assert!(report["time_wait_peak"].as_u64().is_some_and(|peak| peak > 2000), "{report:#}");
    Ok(())
}

#[test]
#[ignore = "takes 5 minutes: cargo xtask soak"]
fn a_thousand_new_connections_a_second_for_five_minutes() -> Result<()> {
    let Some(rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let report = call(&rig.world, &["--rate", "1000", "--seconds", "300"])?;
    eprintln!("{report:#}");
    assert_all_answered(&report, 300_000);
    assert!(report["per_second"].as_f64().is_some_and(|rate| rate > 990.0), "{report:#}");
    Ok(())
}
