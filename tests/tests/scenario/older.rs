//! Connections that are open when a workload is enrolled: they go on, end at their time, or end at once, as its policy says, and
//! an agent that starts again judges none of them twice.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use egret::{
    app::run_dir::RunDir,
    node::sockets::{Protocol, State, list},
};
use egret_tests::{cgroup::Cgroup, egret::Part, process::Process, scenario::World, wait};
use serde_json::{Value, json};

use crate::Rig;

const PATIENCE: Duration = Duration::from_secs(15);
/// Seconds after which the external service answers; it does not wait longer.
const ANSWER: u64 = 10;

/// A process of a cgroup that waits for an answer from outside.
struct Caller {
    cgroup: Cgroup,
    outcome: PathBuf,
    _process: Process,
}

impl Caller {
    fn start(world: &World, name: &str) -> Result<Self> {
        let cgroup = Cgroup::new()?;
        let outcome = world.external.file(name);
        let script = format!(
            "echo $$ > {}/cgroup.procs; \
             answer=$(curl -q -s -S -o /dev/null -w '%{{http_code}}' --noproxy '*' http://{}/delay/{ANSWER} 2>&1); \
             echo \"$? $answer\" > {}; sleep 60",
            cgroup.path().display(),
            world.external.address(),
            outcome.display()
        );
        let process = Process::spawn(name, Command::new("sh").args(["-c", &script]))?;
        let inode = cgroup.inode()?;
        wait::until("its connection", PATIENCE, || {
            let sockets = list(Protocol::Tcp, &[inode], None)?;
            Ok(sockets.iter().any(|socket| socket.state == State::Established).then_some(()))
        })?;
        Ok(Self { cgroup, outcome, _process: process })
    }

    /// As if it was being enrolled when the agent ended: the next one finds a workload whose sockets nobody has looked at.
    fn enrol(&self, world: &World, id: u32, existing: &Value) -> Result<()> {
        let workload = json!({
            "id": id,
            "identity": "spiffe://cluster.local/ns/default/sa/sleep",
            "cgroup": self.cgroup.path(),
            "cgroup_inode": self.cgroup.inode()?,
            "existing": existing,
        });
        let file = RunDir::new(world.egret.run_dir()).workloads().join(format!("{id}.json"));
        fs::write(&file, workload.to_string()).with_context(|| format!("cannot write {}", file.display()))
    }

    /// curl's exit status, and what it says.
    fn outcome(&self) -> Option<String> {
        fs::read_to_string(&self.outcome).ok().filter(|text| text.ends_with('\n'))
    }

    fn wait_for_outcome(&self, patience: Duration) -> Result<String> {
        wait::until("an outcome", patience, || Ok(self.outcome()))
    }
}

/// Kills the agent, and waits until the next one has looked at the sockets of all workloads.
fn next_agent(world: &World, workloads: usize) -> Result<Value> {
    let killed = world.egret.kill(Part::Agent)?;
    wait::until("the next agent to have looked", PATIENCE, || {
        if world.egret.pid(Part::Agent).is_ok_and(|pid| pid == killed) {
            return Ok(None);
        }
        // It may not answer yet.
        let Ok(status) = world.egret.status() else { return Ok(None) };
        let looked = status["workloads"].as_array().map_or(0, |all| {
            all.iter().filter(|workload| workload["sockets"]["existingConnections"].is_object()).count()
        });
        Ok((looked == workloads).then_some(status))
    })
}

#[test]
fn existing_connections_are_treated_as_their_policy_says() -> Result<()> {
    let Some(rig) = Rig::start()? else { return Ok(()) };
    let world = &rig.world;
    let started = Instant::now();
    let (reported, kept, reset) =
        (Caller::start(world, "reported")?, Caller::start(world, "kept")?, Caller::start(world, "reset")?);
    let until = jiff::Timestamp::now() + Duration::from_secs(6);
    reported.enrol(world, 1, &json!({"mode": "REPORT"}))?;
    kept.enrol(world, 2, &json!({"mode": "KEEP_UNTIL", "until": until}))?;
    reset.enrol(world, 3, &json!({"mode": "RESET"}))?;

    let status = next_agent(world, 3)?;
    let older = |status: &Value| -> Vec<Value> {
        (0..3).map(|index| status["workloads"][index]["sockets"]["older"].clone()).collect()
    };
    assert_eq!(older(&status), [1, 1, 0]);
    assert!(reset.wait_for_outcome(PATIENCE)?.contains("connection abort"), "{:?}", reset.outcome());
    assert_eq!(status["agent"]["counters"]["older_ended"], 1);

    // The next agent finds what the last one wrote down.
    let again = next_agent(world, 3)?;
    assert_eq!(older(&again), [1, 1, 0]);
    assert_eq!((reported.outcome(), kept.outcome()), (None, None), "too slow: {:?}", started.elapsed());
    assert!(kept.wait_for_outcome(PATIENCE)?.contains("connection abort"), "{:?}", kept.outcome());
    assert!(jiff::Timestamp::now() >= until);
    assert_eq!(reported.wait_for_outcome(PATIENCE)?, "0 200\n");

    let status = world.egret.status()?;
    let counter = |name: &str| status["agent"]["counters"][name].clone();
    assert_eq!((counter("older_ended"), counter("escaped")), (1.into(), 0.into()));
    assert_eq!(counter("socket_checks_failed"), 0);
    Ok(())
}
