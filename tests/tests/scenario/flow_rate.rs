//! Thousands of flows in seconds: each is told to who follows, and none is missing.

use std::{
    collections::HashSet,
    fs::{self, File},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use egret_tests::{process::Process, wait};
use serde_json::Value;

use crate::Rig;

/// At least so many; fewer than either side keeps by default, however fast this machine is: the clients pause for 5 ms after each.
const FLOWS: usize = 4000;
const CLIENTS: &str = "16";
const PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn who_follows_is_told_of_every_flow() -> Result<()> {
    let Some(rig) = Rig::start()? else { return Ok(()) };
    let world = &rig.world;
    let file = |name: &str| world.external.file(name);
    let (told, until, report) = (file("told"), file("until"), file("report"));
    let mut follow = world.egret.verb("flows");
    follow.args(["--follow", "-o", "json"]).stdout(File::create(&told)?);
    let mut follow = Process::spawn("egret flows --follow", &mut follow)?;
    // Flows by whether the last word about them was their end. The last line may be half written.
    let flows = || -> Result<(HashSet<String>, usize)> {
        let text = fs::read_to_string(&told)?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let (mut ended, mut open) = (HashSet::new(), HashSet::new());
        for line in whole.lines() {
            let flow: Value = serde_json::from_str(line)?;
            let id = flow["id"].as_str().context("no id")?.to_owned();
            if flow["duration_ms"].is_u64() {
                open.remove(&id);
                ended.insert(id);
            } else {
                open.insert(id);
            }
        }
        Ok((ended, open.len()))
    };

    let mut load = world.egret.exec("default/sleep", true);
    load.arg(env!("CARGO_BIN_EXE_egret-external")).args(["load", "--host", "test.com", "--path", "/ip"]);
    load.args(["--address", &format!("{}:80", world.external.address()), "--kept", "0", "--new", CLIENTS]);
    load.arg("--until").arg(&until).arg("--report").arg(&report);
    let begin = Instant::now();
    let mut load = Process::spawn("the load", &mut load)?;
    wait::until("enough flows", PATIENCE, || Ok((flows()?.0.len() >= FLOWS).then_some(())))?;
    fs::write(&until, "")?;
    ensure!(load.wait(PATIENCE)?.success(), "{}", load.tail());
    let took = begin.elapsed();
    let said = fs::read_to_string(&report)?;
    let made: usize = said.trim().strip_prefix("done ").context(said.clone())?.parse()?;
    eprintln!("{made} flows at {:.0} a second", made as f64 / took.as_secs_f64());
    wait::until("every flow to be told", PATIENCE, || {
        let (ended, open) = flows()?;
        ensure!(ended.len() <= made, "{} of {made}", ended.len());
        Ok((ended.len() == made && open == 0).then_some(()))
    })?;
    follow.terminate()?;
    Ok(())
}
