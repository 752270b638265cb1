//! Thousands of flows in seconds: each is told to who follows, and none is missing.

use std::{
    collections::HashSet,
    fs::{self, File},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use egret_tests::{process::Process, wait};
use serde_json::Value;

use crate::Rig;

/// Fewer than either side keeps by default.
const FLOWS: usize = 8000;
const CLIENTS: usize = 8;
const PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn who_follows_is_told_of_every_flow() -> Result<()> {
    let Some(rig) = Rig::start()? else { return Ok(()) };
    let world = &rig.world;
    let told = world.external.file("told");
    let mut follow = world.egret.verb("flows");
    follow.args(["--follow", "-o", "json"]).stdout(File::create(&told)?);
    let mut follow = Process::spawn("egret flows --follow", &mut follow)?;

    let storm = format!("storm {} {}:80", FLOWS / CLIENTS, world.external.address());
    let client = format!("echo '{storm}' | {}", env!("CARGO_BIN_EXE_connector"));
    let script = format!("for i in $(seq {CLIENTS}); do {client} & done; wait");
    let begin = Instant::now();
    let output = world.egret.exec("default/sleep", true).args(["sh", "-c", &script]).output()?;
    let rate = FLOWS as f64 / begin.elapsed().as_secs_f64();
    let answers = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(answers == format!("ok {} errno 0\n", FLOWS / CLIENTS).repeat(CLIENTS), "{output:?}");
    eprintln!("{FLOWS} flows at {rate:.0} a second");

    let ended = |text: &str| -> Result<HashSet<String>> {
        // The last line may be half written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let flows = whole.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
        let over = |flow: &&Value| flow["duration_ms"].is_u64() && !flow["agent"].is_null();
        Ok(flows.iter().filter(over).filter_map(|flow| Some(flow["id"].as_str()?.to_owned())).collect())
    };
    wait::until("every flow to be told", PATIENCE, || {
        let ids = ended(&fs::read_to_string(&told)?)?;
        Ok((ids.len() >= FLOWS).then_some(()))
    })?;
    ensure!(ended(&fs::read_to_string(&told)?)?.len() == FLOWS, "one that was not made");
    follow.terminate()?;
    Ok(())
}
