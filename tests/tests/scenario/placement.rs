//! Where threads run on one machine: workers of agent and gateway share a CPU while little happens, and nothing else is kept there.

use std::{collections::BTreeSet, fs, time::Duration};

use anyhow::{Context as _, Result};
use egret_tests::{egret::Part, scenario::World, wait};

use crate::Rig;

/// A worker that once had to wait for the CPU may be back half a minute later.
const PATIENCE: Duration = Duration::from_secs(90);

/// The CPUs that a thread may run on, as proc_pid_status(5) lists them.
fn allowed(status: &str) -> Result<String> {
    let status = fs::read_to_string(status).with_context(|| status.to_owned())?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    Ok(list.context("no list of CPUs")?.trim().to_owned())
}

/// Those of the workers of a part, and of all its other threads.
fn placed(world: &World, part: Part) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let (mut workers, mut others) = (BTreeSet::new(), BTreeSet::new());
    for thread in fs::read_dir(format!("/proc/{}/task", world.egret.pid(part)?))? {
        let thread = thread?.path();
        // One of the pool may have ended meanwhile.
        let Ok(name) = fs::read_to_string(thread.join("comm")) else { continue };
        let Ok(cpus) = allowed(&thread.join("status").to_string_lossy()) else { continue };
        let of_kind = if name.starts_with("worker-") { &mut workers } else { &mut others };
        of_kind.insert(cpus);
    }
    Ok((workers, others))
}

#[test]
fn workers_share_a_cpu_while_they_have_little_to_do() -> Result<()> {
    let Some(rig) = Rig::start()? else { return Ok(()) };
    let world = &rig.world;
    let everywhere = allowed("/proc/self/status")?;
    if everywhere.parse::<usize>().is_ok() {
        eprintln!("left out: these tests have one CPU only, {everywhere}");
        return Ok(());
    }
    let url = format!("http://{}/anything", world.external.address());
    wait::until("workers to share a CPU", PATIENCE, || {
        let answer = world.egret.curl("default/sleep", false, &[&url])?;
        assert_eq!(answer.status, Some(200), "{}", answer.summary());
        let [agent, gateway] = [placed(world, Part::Agent)?, placed(world, Part::Gateway)?];
        let (workers, others) = &agent;
        let share = workers.len() == 1 && workers.iter().all(|cpus| cpus.parse::<usize>().is_ok());
        // A thread that is just being started still has the CPUs of the one that starts it.
        let elsewhere = others.len() == 1 && others.contains(&everywhere);
        Ok((share && elsewhere && agent == gateway).then_some(()))
    })
}
