//! Each part killed under traffic: what follows is a success by the gateway's way or an error, never a direct connection.
//!
//! The configuration goes to port 443 with mutual TLS, for which only the gateway has the key: a request on the plain
//! port, or on the TLS port under another name, is an escape.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Result;
use egret_tests::{egret::Part, json_log::Mark, process::Process, scenario::World, wait};

use crate::{Rig, repair};

/// Requests that have to end, in whatever way, after a part was killed.
const AFTERWARDS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(40);

/// A workload that calls out without pause, one line of outcome per request: curl's exit status, then the response's.
struct Traffic {
    outcomes: PathBuf,
    _process: Process,
}

impl Traffic {
    fn start(world: &World) -> Result<Self> {
        let outcomes = world.external.file("outcomes");
        let script = format!(
            "while :; do \
               answer=$(curl -q -s -o /dev/null -w '%{{http_code}}' --noproxy '*' --max-time 5 -H host:test.com \
                 http://{}/anything); \
               echo \"$? $answer\" >> {}; \
               sleep 0.02; \
             done",
            world.external.address(),
            outcomes.display()
        );
        let mut command = world.egret.exec("default/sleep", false);
        command.args(["sh", "-c", &script]);
        let process = Process::spawn("the calling workload", &mut command)?;
        let traffic = Self { outcomes, _process: process };
        traffic.wait_for(0, 3, |outcome| outcome == "0 200")?;
        Ok(traffic)
    }

    fn outcomes(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.outcomes).unwrap_or_default();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        complete.lines().map(str::to_owned).collect()
    }

    /// Waits until `count` outcomes after the first `skip` are as wanted.
    fn wait_for(&self, skip: usize, count: usize, wanted: impl Fn(&str) -> bool) -> Result<()> {
        wait::until(&format!("{count} more outcomes"), PATIENCE, || {
            let seen = self.outcomes().iter().skip(skip).filter(|outcome| wanted(outcome)).count();
            Ok((seen >= count).then_some(()))
        })
        .map_err(|error| {
            let outcomes = self.outcomes();
            let last = &outcomes[outcomes.len().saturating_sub(20)..];
            error.context(format!("{} outcomes, the last of them: {last:?}", outcomes.len()))
        })
    }
}

/// A success, a refused or broken connection, or a refusal in words. Anything else is not a clear error.
fn is_clear(outcome: &str) -> bool {
    let clear = [
        "0 200",  // went through
        "0 503",  // refused with a reason
        "7 000",  // connection refused
        "52 000", // closed before an answer
        "56 000", // reset
        "18 200", // ended in the middle of the answer
    ];
    clear.contains(&outcome)
}

/// Every request so far came by the gateway.
fn nothing_escaped(world: &World, traffic: &Traffic) -> Result<()> {
    let lines = world.external.log().since(Mark::default())?;
    for line in &lines {
        assert!(
            line["event"] == "request" && line["tls"] == true && line["client"] == "test.client",
            "an escape: {line}"
        );
    }
    let outcomes = traffic.outcomes();
    let successes = outcomes.iter().filter(|outcome| *outcome == "0 200").count();
    assert!(successes <= lines.len(), "{successes} successes, and the external service saw {}", lines.len());
    let unclear = outcomes.iter().find(|outcome| !is_clear(outcome));
    assert_eq!(unclear, None, "not a clear error (curl's exit status, then the response's)");
    Ok(())
}

/// Kills a role, and expects a line in the supervisor's log and requests that succeed again.
fn role_comes_back(part: Part) -> Result<()> {
    let Some(mut rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &mut rig.world;
    let traffic = Traffic::start(world)?;
    let before = traffic.outcomes().len();
    let killed = world.egret.kill(part)?;
    world.egret.process().wait_for_line(&format!("egret {} was ended by SIGKILL", part.name()), PATIENCE)?;
    wait::until("the role to be started again", PATIENCE, || {
        Ok(world.egret.pid(part).is_ok_and(|pid| pid != killed).then_some(()))
    })?;
    traffic.wait_for(before, AFTERWARDS, |_| true)?;
    let down = traffic.outcomes().len();
    traffic.wait_for(down, 3, |outcome| outcome == "0 200")?;
    assert_eq!(repair::escaped(world)?, 0);
    nothing_escaped(world, &traffic)
}

#[test]
fn agent() -> Result<()> {
    role_comes_back(Part::Agent)
}

#[test]
fn gateway() -> Result<()> {
    role_comes_back(Part::Gateway)
}

#[test]
fn ca() -> Result<()> {
    role_comes_back(Part::Ca)
}

#[test]
fn supervisor() -> Result<()> {
    let Some(mut rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &mut rig.world;
    let traffic = Traffic::start(world)?;
    world.egret.kill(Part::Supervisor)?;
    world.egret.process().wait(PATIENCE)?;
    let down = traffic.outcomes().len();
    // The workload goes on, and gets nowhere.
    traffic.wait_for(down, AFTERWARDS, |_| true)?;
    let late = &traffic.outcomes()[down + AFTERWARDS / 2..];
    assert!(late.iter().all(|outcome| outcome != "0 200"), "requests went through without Egret: {late:?}");
    nothing_escaped(world, &traffic)?;

    world.restart()?;
    let address = world.external.address();
    let answer = world.egret.curl(
        "default/sleep",
        false,
        &["-H", "host: test.com", &format!("http://{address}/status/200")],
    )?;
    assert_eq!(answer.status, Some(200), "{}", answer.summary());
    nothing_escaped(world, &traffic)
}
