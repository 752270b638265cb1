//! WorkloadBindings: cgroups are enrolled when they appear, and released when they go or are selected no longer.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result, ensure};
use egret::app::run_dir::RunDir;
use egret_tests::{bpf, cgroup::Cgroup, egret::Part, scenario::World, wait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    Rig,
    foreign::{PATIENCE, Way, service, way},
};

const FILE: &str = "bindings.yaml";

/// A document that binds cgroups below `parent`.
fn document(name: &str, account: &str, parent: &Cgroup, glob: &str) -> String {
    let parent = parent.path().file_name().unwrap_or_default().to_string_lossy();
    format!(
        "apiVersion: egret.dev/v1alpha1\nkind: WorkloadBinding\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{serviceAccount: {account}, cgroups: [{{path: '{parent}/{glob}'}}]}}\n---\n"
    )
}

fn configure(world: &World, documents: &[String]) -> Result<()> {
    world.egret.reconfigure(|| world.config.write(FILE, &documents.concat()))
}

/// The workloads: cgroup and origin.
fn workloads(world: &World) -> Result<Vec<(PathBuf, Value)>> {
    let status = world.egret.status()?;
    let workloads = status["workloads"].as_array().context("no workloads in the status")?;
    let of = |workload: &Value| {
        (PathBuf::from(workload["cgroup"].as_str().unwrap_or_default()), workload["origin"].clone())
    };
    Ok(workloads.iter().map(of).collect())
}

/// The pinned links, each as the very one it is.
fn links(world: &World) -> Result<BTreeSet<(OsString, u64)>> {
    let instance = RunDir::new(world.egret.run_dir()).instance();
    let entries =
        fs::read_dir(Path::new("/sys/fs/bpf/egret").join(instance).join(bpf::LAYOUT).join("links"))?;
    entries
        .map(|entry| {
            entry.and_then(|entry| Ok((entry.file_name(), entry.metadata()?.ino()))).map_err(Into::into)
        })
        .collect()
}

fn wait_enrolled(world: &World, cgroup: &Path, by: &str) -> Result<()> {
    wait::until(&format!("{} to be enrolled by {by}", cgroup.display()), PATIENCE, || {
        let bound = |(path, origin): &(PathBuf, Value)| path == cgroup && origin["binding"] == by;
        Ok(workloads(world)?.iter().any(bound).then_some(()))
    })
}

fn wait_released(world: &World, cgroup: &Path) -> Result<()> {
    wait::until(&format!("{} to be released", cgroup.display()), PATIENCE, || {
        Ok(workloads(world)?.iter().all(|(path, _)| path != cgroup).then_some(()))
    })
}

#[test]
fn cgroups_are_enrolled_as_they_appear_and_released_as_they_go() -> Result<()> {
    let Some(rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &rig.world;
    let parent = Cgroup::new()?;
    let there = parent.child("svc-there")?;
    let old = service(there.path())?;
    let other = parent.child("other")?;
    configure(world, &[document("services", "sleep", &parent, "svc-*")])?;
    wait_enrolled(world, there.path(), "default/services")?;

    let late = parent.child("svc-late")?;
    wait_enrolled(world, late.path(), "default/services")?;
    let mut running = service(late.path())?;
    assert_eq!(way(world, late.path())?, Way::Gateway);
    assert_eq!(way(world, there.path())?, Way::Gateway);
    assert_eq!(way(world, other.path())?, Way::Direct, "selected by nobody");
    // By hand it would come back at once.
    let id = world.egret.status()?["workloads"][0]["id"].to_string();
    let refused = world.egret.verb("release").arg(id).output()?;
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("WorkloadBinding default/services selects it"),
        "{refused:?}"
    );

    let (gone, inode) = (there.path().to_owned(), there.inode()?);
    drop((old, there));
    wait_released(world, &gone)?;
    // The same path, another cgroup: a service that was started again.
    let again = parent.child("svc-there")?;
    assert_ne!(again.inode()?, inode);
    wait_enrolled(world, &gone, "default/services")?;
    assert_eq!(way(world, &gone)?, Way::Gateway);

    world.egret.reconfigure(|| world.config.remove(FILE))?;
    wait_released(world, late.path())?;
    assert_eq!(way(world, late.path())?, Way::Direct);
    assert!(bpf::attached(late.path())?.is_empty());
    assert!(running.try_status()?.is_none(), "a release ends nothing");
    Ok(())
}

#[test]
fn units_and_containers_are_found_by_their_names() -> Result<()> {
    let Some(rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &rig.world;
    let (slice, name) = (Cgroup::slice()?, Cgroup::name());
    let id = format!("{:0>64x}", process::id());
    let binding = format!(
        "apiVersion: egret.dev/v1alpha1\nkind: WorkloadBinding\nmetadata: {{name: names, namespace: default}}\n\
         spec:\n  serviceAccount: sleep\n  cgroups:\n  - systemdUnit: '{name}-*.service'\n  - container: '{id}'\n"
    );
    configure(world, &[binding])?;
    let unit = slice.child(&format!("{name}-1.service"))?;
    wait_enrolled(world, unit.path(), "default/names")?;
    let container = slice.child(&format!("docker-{id}.scope"))?;
    wait_enrolled(world, container.path(), "default/names")?;
    assert_eq!(way(world, unit.path())?, Way::Gateway);
    assert_eq!(way(world, container.path())?, Way::Gateway);
    assert_eq!(way(world, slice.path())?, Way::Direct);
    Ok(())
}

#[test]
fn of_two_bindings_one_gets_the_cgroup_and_says_so() -> Result<()> {
    let Some(rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &rig.world;
    let parent = Cgroup::new()?;
    let contested = parent.child("svc")?;
    configure(world, &[document("b", "sleep", &parent, "svc")])?;
    wait_enrolled(world, contested.path(), "default/b")?;
    let links = links(world)?;
    // First by name: it gets the cgroup, which is captured all the while.
    configure(world, &[document("a", "other", &parent, "s*"), document("b", "sleep", &parent, "svc")])?;
    wait_enrolled(world, contested.path(), "default/a")?;
    assert_eq!(self::links(world)?, links, "nothing is attached anew");
    assert_eq!(way(world, contested.path())?, Way::Gateway);
    let status = world.egret.status()?;
    let problem = status["agent"]["binding_problems"][0].as_str().unwrap_or_default().to_owned();
    assert!(problem.contains("default/a gets it; default/b select it as well"), "{problem}");
    assert_eq!(status["workloads"][0]["identity"], "spiffe://cluster.local/ns/default/sa/other");
    assert_eq!(workloads(world)?.len(), 1);
    Ok(())
}

#[test]
fn a_broken_binding_lets_nothing_out_not_even_after_a_restart() -> Result<()> {
    let Some(mut rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &mut rig.world;
    let parent = Cgroup::new()?;
    let (bound, later) = (parent.child("svc")?, parent.child("later")?);
    configure(world, &[document("services", "sleep", &parent, "svc")])?;
    wait_enrolled(world, bound.path(), "default/services")?;
    // The last good version stays; a document that was never good enrols nothing.
    let broken = [document("services", "NO", &parent, "svc"), document("never", "NO", &parent, "later")];
    configure(world, &broken)?;
    assert_eq!(way(world, bound.path())?, Way::Gateway);
    let killed = world.egret.kill(Part::Agent)?;
    wait::until("the agent to be started again", PATIENCE, || {
        Ok(world.egret.pid(Part::Agent).is_ok_and(|pid| pid != killed).then_some(()))
    })?;
    wait::until("the workload to be carried again", PATIENCE, || {
        let way = way(world, bound.path())?;
        ensure!(way != Way::Direct, "it was let out");
        Ok((way == Way::Gateway).then_some(()))
    })?;
    wait::until("the binding to be complained about", PATIENCE, || {
        let status = world.egret.status()?;
        let problems = status["agent"]["binding_problems"].to_string();
        Ok(problems.contains("stays enrolled: WorkloadBinding default/services").then_some(()))
    })?;
    assert_eq!(workloads(world)?.len(), 1);
    assert_eq!(way(world, later.path())?, Way::Direct);
    let problems = world.egret.config_problems()?;
    let said =
        problems.iter().any(|p| p["code"] == "EG0111" && p["object"] == "WorkloadBinding default/never");
    assert!(said, "{problems:#?}");
    Ok(())
}

#[test]
fn with_a_strict_start_nothing_connects_before_it_is_known() -> Result<()> {
    let Some(rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &rig.world;
    let parent = Cgroup::new()?;
    let (ours, other) = (parent.child("svc-there")?, parent.child("other")?);
    let strict =
        document("services", "sleep", &parent, "svc-*").replace("spec: {", "spec: {strictStart: true, ");
    configure(world, &[strict])?;
    wait_enrolled(world, ours.path(), "default/services")?;
    wait::until("the parent to be guarded", PATIENCE, || Ok((guards(&parent)? == 5).then_some(())))?;
    let shown = world.egret.status()?["agent"]["guards"].clone();
    assert_eq!(shown, serde_json::json!({ parent.path().display().to_string(): null }));
    assert_eq!(way(world, ours.path())?, Way::Gateway);
    assert_eq!(way(world, other.path())?, Way::Direct, "what was there has not noticed");
    let stranger = parent.child("stranger")?;
    wait_for_way(world, &stranger, &Way::Direct)?;
    let late = parent.child("svc-late")?;
    wait_for_way(world, &late, &Way::Gateway)?;

    // While nobody can say what is new, it cannot get out; what is known goes on.
    let paused = Paused::new(world.egret.pid(Part::Supervisor)?)?;
    world.egret.kill(Part::Agent)?;
    let [unknown, svc_unknown] = [parent.child("unknown")?, parent.child("svc-unknown")?];
    assert_eq!(way(world, unknown.path())?, Way::Nowhere);
    assert_eq!(way(world, svc_unknown.path())?, Way::Nowhere);
    assert_eq!(way(world, other.path())?, Way::Direct);
    drop(paused);
    wait_for_way(world, &unknown, &Way::Direct)?;
    wait_for_way(world, &svc_unknown, &Way::Gateway)?;

    // A document that cannot be read takes no guard away; without the binding all is as before.
    world.egret.reconfigure(|| world.config.write(FILE, "a: ["))?;
    assert_eq!(guards(&parent)?, 5);
    world.egret.reconfigure(|| world.config.remove(FILE))?;
    wait::until("the guard to go", PATIENCE, || Ok((guards(&parent)? == 0).then_some(())))?;
    assert_eq!(way(world, parent.child("new")?.path())?, Way::Direct);
    Ok(())
}

#[test]
fn with_a_strict_start_none_is_direct_while_agents_come_and_go() -> Result<()> {
    const STARTS: usize = 30;
    let Some(rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &rig.world;
    let parent = Cgroup::new()?;
    let strict =
        document("services", "sleep", &parent, "svc-*").replace("spec: {", "spec: {strictStart: true, ");
    configure(world, &[strict])?;
    wait::until("the parent to be guarded", PATIENCE, || Ok((guards(&parent)? == 5).then_some(())))?;
    let mut seen = Vec::new();
    for number in 0..STARTS {
        if number % 10 == 5 {
            world.egret.kill(Part::Agent)?;
        }
        let cgroup = parent.child(&format!("svc-{number}"))?;
        seen.push(way(world, cgroup.path())?);
        if number % 10 == 9 {
            // By then the next agent is there.
            wait_for_way(world, &cgroup, &Way::Gateway)?;
        }
    }
    ensure!(!seen.contains(&Way::Direct), "{seen:?}");
    ensure!(seen.contains(&Way::Nowhere), "the agent was never away: {seen:?}");
    Ok(())
}

/// A process that does nothing until this is dropped.
struct Paused(Pid);

impl Paused {
    fn new(process: Pid) -> Result<Self> {
        kill(process, Signal::SIGSTOP)?;
        Ok(Self(process))
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // It may have been killed.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// How many programs are attached to it.
fn guards(parent: &Cgroup) -> Result<usize> {
    Ok(bpf::attached(parent.path())?.len())
}

fn wait_for_way(world: &World, cgroup: &Cgroup, expected: &Way) -> Result<()> {
    wait::until(&format!("{} to be known", cgroup.path().display()), PATIENCE, || {
        let way = way(world, cgroup.path())?;
        ensure!(way == *expected || way == Way::Nowhere, "{way:?} instead of {expected:?}");
        Ok((way == *expected).then_some(()))
    })
}
