//! Services that were there before Egret, in cgroups that somebody else made: enrolled and released by hand, in the host's network
//! and in one of their own.
//!
//! The configuration goes to port 443 with mutual TLS, for which only the gateway has the key: a request on the plain port was
//! direct.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Result, ensure};
use egret_tests::{
    bpf,
    cgroup::Cgroup,
    curl::{self, Answer},
    egret::Part,
    process::{Process, run},
    scenario::World,
    wait,
};
use serde_json::Value;

use crate::{Rig, marker, namespace, passed_by};

pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// A command that puts itself into the cgroup first.
pub(crate) fn inside(cgroup: &Path, command: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("echo $$ > {}/cgroup.procs && exec {command}", cgroup.display())]);
    shell
}

/// A service that does nothing.
pub(crate) fn service(cgroup: &Path) -> Result<Process> {
    let mut service =
        Process::spawn("a service", &mut inside(cgroup, "sh -c 'echo up >&2; exec sleep 120'"))?;
    service.wait_for_line("up", PATIENCE)?;
    Ok(service)
}

/// A request from the cgroup; `within` runs curl.
fn request(world: &World, cgroup: &Path, within: &str, path: &str) -> Result<Answer> {
    let options = curl::OPTIONS.join(" ").replace('*', "'*'");
    let url = format!("http://{}/anything/{path}", world.external.address());
    curl::run(&mut inside(cgroup, &format!("{within} curl {options} -H host:test.com {url}")))
}

/// By which way a request from the cgroup arrives outside.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Gateway,
    Direct,
    Nowhere,
}

pub(crate) fn way(world: &World, cgroup: &Path) -> Result<Way> {
    way_within(world, cgroup, "")
}

fn way_within(world: &World, cgroup: &Path, within: &str) -> Result<Way> {
    let (mark, path) = (world.external.log().mark(), marker("way"));
    let answer = request(world, cgroup, within, &path)?;
    let lines = world.external.log().since(mark)?;
    let ours = |line: &&Value| line["path"].as_str().is_some_and(|seen| seen.contains(&path));
    Ok(match lines.iter().find(ours) {
        Some(line) if line["tls"] == true && line["client"] == "test.client" => Way::Gateway,
        Some(_) => Way::Direct,
        None => {
            ensure!(answer.status != Some(200), "{}", answer.summary());
            Way::Nowhere
        }
    })
}

/// Whether the processes of the cgroup are captured at all.
fn captured(cgroup: &Path) -> Result<bool> {
    Ok(!bpf::attached(cgroup)?.is_empty())
}

/// `egret enroll`, as workload `default/sleep`: its number.
pub(crate) fn enroll(world: &World, what: [&str; 2]) -> Result<u64> {
    Ok(enrolled(world, what)?["id"].as_u64().unwrap_or_default())
}

/// `egret enroll`, as workload `default/sleep`: what it says of it.
pub(crate) fn enrolled(world: &World, what: [&str; 2]) -> Result<Value> {
    let output = world.egret.verb("enroll").args(what).args(["default/sleep", "-o", "json"]).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[test]
fn a_service_is_enrolled_and_released_and_outlives_egret() -> Result<()> {
    let Some(rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &rig.world;
    let cgroup = Cgroup::new()?;
    let mut service = service(cgroup.path())?;
    assert_eq!(way(world, cgroup.path())?, Way::Direct, "the control");

    let id = enroll(world, ["--pid", &service.id().to_string()])?;
    assert_eq!(way(world, cgroup.path())?, Way::Gateway);
    let status = world.egret.status()?;
    assert_eq!(
        (&status["workloads"][0]["origin"], &status["workloads"][0]["networks"][0]),
        (&"hand".into(), &"host".into())
    );
    let path = cgroup.path().to_string_lossy();
    let again = enroll(world, ["--cgroup", &path]).unwrap_err().to_string();
    assert!(again.contains(&format!("workload {id} (default/sleep, by hand)")), "{again}");
    // Nested: enrolled for itself.
    let nested = cgroup.child("nested")?;
    let inner = enroll(world, ["--cgroup", &nested.path().to_string_lossy()])?;
    assert_eq!(way(world, nested.path())?, Way::Gateway);

    // What was captured before the release goes on.
    let (address, seen) = (world.external.address(), world.external.log().mark());
    let mut slow = Process::spawn(
        "a slow request",
        &mut inside(
            cgroup.path(),
            &format!("curl -q -sSf -o /dev/null --noproxy '*' -H host:test.com http://{address}/delay/3"),
        ),
    )?;
    let carried = |line: &Value| line["path"] == "/delay/3" && line["tls"] == true;
    world.external.log().wait_since(seen, PATIENCE, carried)?;
    for id in [inner, id] {
        let released = world.egret.verb("release").arg(id.to_string()).output()?;
        assert!(released.status.success(), "{released:?}");
    }
    assert!(slow.try_status()?.is_none(), "it was over before");
    assert!(slow.wait(PATIENCE)?.success(), "{:?}", slow.stderr());
    assert!(!captured(cgroup.path())?);
    assert_eq!(way(world, cgroup.path())?, Way::Direct);
    assert!(service.try_status()?.is_none(), "a release ends nothing");

    // Nor is all, a cgroup of Egret's own making, or one with Egret in it.
    for refused in ["", "egret", "no/such"] {
        assert!(enroll(world, ["--cgroup", refused]).is_err(), "{refused}");
    }
    let role = world.egret.pid(Part::Ca)?;
    cgroup.add(role.as_raw().unsigned_abs())?;
    let itself = enroll(world, ["--cgroup", &path]);
    fs::write(bpf::own_cgroup()?.join("cgroup.procs"), role.to_string())?;
    let itself = itself.unwrap_err().to_string();
    assert!(itself.contains(&format!("process {role} of Egret itself")), "{itself}");

    enroll(world, ["--cgroup", &path])?;
    assert_eq!(way(world, cgroup.path())?, Way::Gateway);
    let Rig { world, directory: _directory } = rig;
    world.stop()?;
    assert!(service.try_status()?.is_none(), "its end ends no service");
    assert!(!captured(cgroup.path())?);
    Ok(())
}

#[test]
fn a_service_stays_captured_while_the_agent_is_killed() -> Result<()> {
    let Some(mut rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &mut rig.world;
    let cgroup = Cgroup::new()?;
    let mut service = service(cgroup.path())?;
    enroll(world, ["--cgroup", &cgroup.path().to_string_lossy()])?;
    world.egret.kill(Part::Supervisor)?;
    world.egret.process().wait(PATIENCE)?;
    assert_eq!(way(world, cgroup.path())?, Way::Nowhere);
    world.restart()?;
    wait::until("the service to be carried again", PATIENCE, || {
        let way = way(world, cgroup.path())?;
        ensure!(way != Way::Direct, "it was let out");
        Ok((way == Way::Gateway).then_some(()))
    })?;

    // Taken away after a crash: said, and it goes on.
    world.egret.kill(Part::Supervisor)?;
    world.egret.process().wait(PATIENCE)?;
    let cleanup = Command::new(world.egret.binary())
        .args(["agent", "--cleanup", "--run-dir"])
        .arg(world.egret.run_dir())
        .output()?;
    let said = String::from_utf8_lossy(&cleanup.stdout);
    assert!(said.contains(&format!("released {}", cgroup.path().display())), "{cleanup:?}");
    assert_eq!(way(world, cgroup.path())?, Way::Direct);
    assert!(service.try_status()?.is_none(), "it ends no service");
    Ok(())
}

#[test]
fn a_unit_is_enrolled_by_its_name() -> Result<()> {
    let Some(rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &rig.world;
    let (slice, unit) = (Cgroup::slice()?, format!("{}.service", Cgroup::name()));
    assert!(enroll(world, ["--unit", &unit]).unwrap_err().to_string().contains("is it running?"));
    let service = slice.child(&unit)?;
    // Whoever runs in a service can make cgroups below it, with any name.
    let other = slice.child(&format!("{}.service", Cgroup::name()))?;
    let _forged = other.child(&unit)?;
    enroll(world, ["--unit", unit.trim_end_matches(".service")])?;
    assert_eq!(world.egret.status()?["workloads"][0]["cgroup"], service.path().to_string_lossy().as_ref());
    assert_eq!(way(world, service.path())?, Way::Gateway);
    assert_eq!(way(world, slice.path())?, Way::Direct);
    Ok(())
}

#[test]
fn a_network_namespace_of_its_own_is_found_and_dialled_from() -> Result<()> {
    if !egret_tests::privileges::kernel_or_skip("a service in a network namespace of its own") {
        return Ok(());
    }
    let network = namespace()?;
    let Some(mut rig) = Rig::start_with_gateway(network.host_address())? else { return Ok(()) };
    let world = &mut rig.world;
    world.configure_up_to("5-mutual-tls")?;
    let cgroup = Cgroup::new()?;
    enroll(world, ["--cgroup", &cgroup.path().to_string_lossy()])?;

    // It enters its namespace when it has been enrolled already, as a container does.
    let within = format!("ip netns exec {}", network.name());
    let mut late = Process::spawn("a service", &mut inside(cgroup.path(), &format!("{within} sleep 120")))?;
    let (before, place) = (world.egret.access_log().mark(), network.address().to_string());
    wait::until("the service to be carried", PATIENCE, || {
        let way = way_within(world, cgroup.path(), &within)?;
        ensure!(way != Way::Direct, "it was let out");
        Ok((way == Way::Gateway).then_some(()))
    })?;
    let lines = world.egret.access_log().wait_since(before, PATIENCE, |_| true)?;
    assert!(
        lines.iter().all(|line| passed_by(line, &place)),
        "the gateway sees the workload's address: {lines:#?}"
    );
    let networks = world.egret.status()?["workloads"][0]["networks"].to_string();
    assert!(networks.contains("net:["), "{networks}");

    // Its successor finds it again.
    let killed = world.egret.kill(Part::Agent)?;
    wait::until("the agent to be started again", PATIENCE, || {
        Ok(world.egret.pid(Part::Agent).is_ok_and(|pid| pid != killed).then_some(()))
    })?;
    let before = world.egret.access_log().mark();
    wait::until("the service to be carried again", PATIENCE, || {
        let way = way_within(world, cgroup.path(), &within)?;
        ensure!(way != Way::Direct, "it was let out");
        Ok((way == Way::Gateway).then_some(()))
    })?;
    let lines = world.egret.access_log().wait_since(before, PATIENCE, |_| true)?;
    assert!(lines.iter().all(|line| passed_by(line, &place)), "{lines:#?}");

    // Our sockets must not keep it alive: its link goes when the last process has.
    let link = network.host_link().to_owned();
    run("ip", &["netns", "del", network.name()])?;
    late.terminate()?;
    wait::until("the namespace to go", PATIENCE, || {
        Ok(run("ip", &["link", "show", &link]).is_err().then_some(()))
    })
}

#[test]
fn a_namespace_with_loopback_only_is_carried_from_the_agents() -> Result<()> {
    let Some(rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &rig.world;
    let cgroup = Cgroup::new()?;
    let _service = service(cgroup.path())?;
    enroll(world, ["--cgroup", &cgroup.path().to_string_lossy()])?;
    // In two namespaces at once: the service in the host's, the other one here.
    let script = format!(
        "unshare --net sh -c 'ip link set lo up; until curl -q -s -o /dev/null --max-time 5 --noproxy \\* -H host:test.com \
         http://{}/anything; do sleep 0.05; done; echo reached >&2; exec sleep 60'",
        world.external.address()
    );
    let mark = world.external.log().mark();
    let mut isolated = Process::spawn("a service without a link", &mut inside(cgroup.path(), &script))?;
    isolated.wait_for_line("reached", PATIENCE)?;
    let lines = world.external.log().since(mark)?;
    assert!(!lines.is_empty() && lines.iter().all(|line| line["tls"] == true), "{lines:#?}");
    assert_eq!(way(world, cgroup.path())?, Way::Gateway, "the host's is served as before");
    Ok(())
}
