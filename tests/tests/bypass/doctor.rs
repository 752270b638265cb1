//! `egret doctor` beside a running instance.

use std::{fs, process::Output};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::rig::Rig;

fn doctor(rig: &Rig, arguments: &[&str]) -> Result<(Output, Vec<Value>)> {
    let tunnels = format!("127.0.0.1:{}", rig.world.egret.tunnel_port());
    let mut command = rig.world.egret.verb("doctor");
    let output = command.args(["--hbone-address", &tunnels, "-o", "json"]).args(arguments).output()?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("no JSON: {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok((output, report["checks"].as_array().context("no checks")?.clone()))
}

fn named<'a>(checks: &'a [Value], name: &str) -> &'a Value {
    checks.iter().find(|check| check["name"] == name).unwrap_or(&Value::Null)
}

#[test]
fn a_machine_that_runs_egret_is_in_order() -> Result<()> {
    let Some(rig) = Rig::start("a_machine_that_runs_egret_is_in_order")? else { return Ok(()) };
    let (output, checks) = doctor(&rig, &[])?;
    assert!(output.status.success(), "{checks:#?}");
    for name in
        ["capabilities", "cgroup", "program egret_connect4", "network namespaces", "role agent", "role ca"]
    {
        assert_eq!(named(&checks, name)["status"], "ok", "{name}: {checks:#?}");
    }
    let port = format!("tunnel port 127.0.0.1:{}", rig.world.egret.tunnel_port());
    assert_eq!(named(&checks, &port)["finding"], "in use by this instance's gateway");
    for check in &checks {
        let needs_remedy = check["status"] != "ok";
        assert_eq!(check["remedy"].is_string(), needs_remedy, "{check}");
    }
    Ok(())
}

#[test]
fn what_is_wrong_is_an_error_with_a_remedy() -> Result<()> {
    let Some(rig) = Rig::start("what_is_wrong_is_an_error_with_a_remedy")? else { return Ok(()) };
    let config = rig.directory().join("bad");
    fs::create_dir(&config)?;
    fs::write(config.join("a.yaml"), "kind: VirtualService\n")?;
    let (output, checks) = doctor(&rig, &["-f", &config.to_string_lossy()])?;
    assert_eq!(output.status.code(), Some(1), "{checks:#?}");
    let check = named(&checks, "configuration");
    assert_eq!(check["status"], "error");
    assert!(check["remedy"].as_str().is_some_and(|remedy| remedy.starts_with("egret check")), "{check}");
    Ok(())
}
