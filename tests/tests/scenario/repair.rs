//! Programs that somebody takes away under a running workload are noticed, counted, and attached again; connections that went
//! out meanwhile are found, counted and ended.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use egret::app::run_dir::RunDir;
use egret_tests::{bpf, process::Process, scenario::World, wait};

use crate::Rig;

/// The product promises five seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pinned links of the only workload.
fn links(world: &World) -> Result<Vec<PathBuf>> {
    let instance = RunDir::new(world.egret.run_dir()).instance();
    let directory = PathBuf::from("/sys/fs/bpf/egret").join(instance).join("links");
    let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn counter(world: &World, name: &str) -> Result<u64> {
    let status = world.egret.status()?;
    status["agent"]["counters"][name].as_u64().with_context(|| format!("no {name} in the status"))
}

#[test]
fn detached_programs_are_attached_again() -> Result<()> {
    let Some(rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &rig.world;
    let mut command = world.egret.exec("default/sleep", false);
    command.args(["sleep", "60"]);
    let _workload = Process::spawn("a workload", &mut command)?;
    let cgroup = wait::until("the workload to be enrolled", PATIENCE, || {
        let status = world.egret.status()?;
        Ok(status["workloads"][0]["cgroup"].as_str().map(PathBuf::from))
    })?;
    let attached = bpf::attached(&cgroup)?.len();
    assert_ne!(attached, 0, "nothing is attached to {}", cgroup.display());
    assert_eq!(counter(world, "programs_reattached")?, 0);

    let links = links(world)?;
    assert_eq!(links.len(), attached);
    for link in &links {
        fs::remove_file(link).with_context(|| format!("cannot remove {}", link.display()))?;
    }
    wait::until("the programs to be attached again", PATIENCE, || {
        Ok((bpf::attached(&cgroup)?.len() == attached && counter(world, "programs_reattached")? >= 1)
            .then_some(()))
    })?;
    Ok(())
}

/// How many connections of the only workload were found to have escaped, once its sockets have been looked at.
pub(crate) fn escaped(world: &World) -> Result<u64> {
    wait::until("the workload's sockets to be looked at", PATIENCE, || {
        let status = world.egret.status()?;
        let sockets = &status["workloads"][0]["sockets"];
        // Absent until then.
        Ok(sockets["existingConnections"].as_object().and_then(|_| sockets["escaped"].as_u64()))
    })
}

/// Takes the programs away, and waits until they are back. How much had escaped meanwhile, if anything did.
fn injected(world: &World) -> Result<Option<u64>> {
    let before = counter(world, "programs_reattached")?;
    for link in links(world)? {
        fs::remove_file(&link).with_context(|| format!("cannot remove {}", link.display()))?;
    }
    let gone = Instant::now();
    wait::until("the programs to be attached again", PATIENCE, || {
        Ok((counter(world, "programs_reattached")? > before).then_some(()))
    })?;
    let left = PATIENCE.saturating_sub(gone.elapsed());
    let found = wait::settled(left, || escaped(world).is_ok_and(|found| found > 0));
    Ok(if found { Some(escaped(world)?) } else { None })
}

#[test]
fn what_escapes_meanwhile_is_counted_and_ended() -> Result<()> {
    let Some(rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &rig.world;
    let outcomes = world.external.file("outcomes");
    // Requests that take a while, several at a time.
    let script = format!(
        "while :; do \
           (answer=$(curl -q -s -S -o /dev/null -w '%{{http_code}}' --noproxy '*' --max-time 20 -H host:test.com \
              http://{}/delay/3 2>&1); echo \"$? $answer\" >> {}) & \
           sleep 0.2; \
         done",
        world.external.address(),
        outcomes.display()
    );
    let mut command = world.egret.exec("default/sleep", false);
    command.args(["sh", "-c", &script]);
    let _load = Process::spawn("a load", &mut command)?;
    let wait_for = |what: &str, patience, wanted: &dyn Fn(&str) -> bool| {
        wait::until(what, patience, || {
            let text = fs::read_to_string(&outcomes).unwrap_or_default();
            Ok((text.lines().filter(|outcome| wanted(outcome)).count() >= 5).then_some(()))
        })
    };
    wait_for("requests by the gateway", Duration::from_secs(30), &|outcome| outcome == "0 200")?;
    assert_eq!(escaped(world)?, 0);
    assert_eq!(counter(world, "dropped_older_connection")?, 0);

    // The agent may look a moment after the programs are gone, before anything went out: then again.
    let found = (0..5).find_map(|_| injected(world).transpose()).context("nothing was found")??;
    assert!(counter(world, "escaped")? >= found);
    // Those that called were told at once, not when the answer would have come.
    let outcome = wait::until("a broken connection", PATIENCE, || {
        let text = fs::read_to_string(&outcomes)?;
        Ok(text.lines().find(|outcome| outcome.starts_with("56 ")).map(str::to_owned))
    })?;
    assert!(outcome.contains("connection abort"), "{outcome}");
    Ok(())
}
