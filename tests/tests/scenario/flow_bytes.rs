//! What flow records say was moved is what its two ends have counted themselves.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use egret_tests::{process::Process, scenario::World, wait};
use serde_json::Value;

use crate::Rig;

const TRANSFERS: usize = 1000;
const PORT: u16 = 9000;
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes from and to the workload, of every connection; sorted.
type Counts = Vec<(u64, u64)>;

#[test]
fn a_thousand_random_transfers_are_counted_to_the_byte() -> Result<()> {
    let Some(rig) = Rig::start()? else { return Ok(()) };
    let world = &rig.world;
    let address = format!("{}:{PORT}", world.external.address());
    let (sent, arrived) = (world.external.file("transfers"), world.external.file("sink"));
    let binary = Path::new(env!("CARGO_BIN_EXE_egret-external"));
    let mut command = world.external.namespace().command(binary);
    command.args(["sink", "--listen", &address, "--report"]).arg(&arrived);
    let mut sink = Process::spawn("the sink", &mut command)?;
    sink.wait_for_line("ready", PATIENCE)?;

    let mut client = world.egret.exec("default/sleep", true);
    client.arg(binary).args(["transfers", "--address", &address, "--count", &TRANSFERS.to_string()]);
    let output = client.arg("--report").arg(&sent).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let client = reported(&sent)?;
    ensure!(client.len() == TRANSFERS, "{} transfers", client.len());
    ensure!(client == reported(&arrived)?, "the two ends differ themselves");
    let flows = ended(world)?;
    for side in ["agent", "gateway"] {
        let counted = counted(&flows, side)?;
        let different = client.iter().zip(&counted).find(|(told, counted)| told != counted);
        ensure!(
            counted.len() == TRANSFERS && different.is_none(),
            "{side}: {} flows, {different:?}",
            counted.len()
        );
    }
    Ok(())
}

/// All flows, once all of them have ended on both sides.
fn ended(world: &World) -> Result<Vec<Value>> {
    wait::until("all flows to have ended", PATIENCE, || {
        let flows = world.egret.json("flows", &["--limit", "0"])?;
        let flows = flows.as_array().context("no list")?;
        let over = |flow: &Value| ["agent", "gateway"].iter().all(|side| flow[side]["duration_ms"].is_u64());
        Ok((flows.len() == TRANSFERS && flows.iter().all(over)).then(|| flows.clone()))
    })
}

fn counted(flows: &[Value], side: &str) -> Result<Counts> {
    let count = |flow: &Value| Some((flow[side]["sent"].as_u64()?, flow[side]["received"].as_u64()?));
    let mut counts = flows.iter().map(count).collect::<Option<Counts>>().context("a flow without counts")?;
    counts.sort_unstable();
    Ok(counts)
}

fn reported(file: &Path) -> Result<Counts> {
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let line = |line: &str| -> Option<(u64, u64)> {
        let (from, to) = line.split_once(' ')?;
        Some((from.parse().ok()?, to.parse().ok()?))
    };
    let mut counts = text.lines().map(line).collect::<Option<Counts>>().context("no report")?;
    counts.sort_unstable();
    Ok(counts)
}
