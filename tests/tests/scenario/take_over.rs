//! Upgrades and deaths of the agent under load: no request of a workload goes out directly, none fails that need not, and
//! processes that are no workloads notice nothing.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::Ipv4Addr,
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use egret_tests::{
    egret::{Part, binary},
    process::Process,
    scenario::World,
    wait,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    Rig,
    traffic::{Client, escapes},
};

/// The promise is 20 of each.
const TIMES: usize = 20;
const PATIENCE: Duration = Duration::from_secs(40);

/// The process that answers as the agent.
fn serving(world: &World) -> Option<i32> {
    // Nobody may answer for a moment.
    let status = world.egret.status().unwrap_or_default();
    status["agent"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok())
}

/// Waits until another process than `old` serves.
fn wait_for_successor(world: &World, old: i32) -> Result<i32> {
    wait::until("another agent to serve", PATIENCE, || {
        Ok(serving(world).filter(|pid| {
            *pid != old && world.egret.pid(Part::Agent).is_ok_and(|in_file| in_file.as_raw() == *pid)
        }))
    })
}

/// What a reload in a service manager does.
fn reload(world: &mut World) -> Result<()> {
    world.egret.process().signal(Signal::SIGHUP)
}

fn no_failures(client: &Client) {
    assert_eq!(client.failures(), Vec::<String>::new(), "failed requests");
}

#[test]
fn an_upgrade_fails_no_request_and_lets_none_out() -> Result<()> {
    let Some(mut rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &mut rig.world;
    let (inside, outside) = (Client::workload(world)?, Client::outside(world)?);
    let over = AtomicBool::new(false);
    let mut enrolling = world.egret.exec("default/other", false);
    enrolling.arg("true");
    let enrolled = thread::scope(|scope| -> Result<usize> {
        // Enrolments that come in the middle wait, and succeed.
        let enrolments = scope.spawn(|| -> Result<usize> {
            let mut count = 0;
            while !over.load(Relaxed) {
                let output = enrolling.output()?;
                ensure!(output.status.success(), "an enrolment failed: {output:?}");
                count += 1;
            }
            Ok(count)
        });
        let upgraded = (|| {
            for _ in 0..TIMES {
                let old = serving(world).context("no agent")?;
                reload(world)?;
                wait_for_successor(world, old)?;
                no_failures(&inside);
            }
            anyhow::Ok(())
        })();
        over.store(true, Relaxed);
        let enrolled = enrolments.join().expect("no panic");
        upgraded?;
        enrolled
    })?;
    for client in [inside, outside] {
        no_failures(&client);
        let done = client.end()?;
        assert!(done > 100, "only {done} requests");
    }
    assert!(enrolled > TIMES / 2, "only {enrolled} enrolments");
    assert_eq!(escapes(world)?, Vec::<serde_json::Value>::new());
    world.egret.process().wait_for_line("the earlier egret agent has ended", PATIENCE)?;
    Ok(())
}

#[test]
fn an_agent_that_is_killed_again_and_again_lets_nothing_out() -> Result<()> {
    let Some(mut rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &mut rig.world;
    let (inside, outside) = (Client::workload(world)?, Client::outside(world)?);
    // The supervisor would pause longer and longer between the starts: the roles are started by hand instead.
    world.egret.kill(Part::Supervisor)?;
    world.egret.process().wait(PATIENCE)?;
    let role = |name: &str| {
        let mut command = world.egret.verb(name);
        command.arg("--config").arg(world.config.path());
        command.args(["--hbone-address", &format!("127.0.0.1:{}", world.egret.tunnel_port())]);
        Process::spawn(name, &mut command)
    };
    let mut ca = role("ca")?;
    ca.wait_for_line("issuing certificates", PATIENCE)?;
    let mut gateway = role("gateway")?;
    gateway.wait_for_line("serving tunnels", PATIENCE)?;
    for _ in 0..TIMES {
        let mut agent = role("agent")?;
        agent.wait_for_line("capturing", PATIENCE)?;
        agent.signal(Signal::SIGKILL)?;
        agent.wait(PATIENCE)?;
    }
    let mut agent = role("agent")?;
    agent.wait_for_line("capturing", PATIENCE)?;
    let before = world.external.log().mark();
    world.external.log().wait_since(before, PATIENCE, |line| line["path"] == "/anything/inside")?;
    assert!(!inside.failures().is_empty(), "the control failed: an agent that is dead was not noticed");
    no_failures(&outside);
    inside.end()?;
    outside.end()?;
    assert_eq!(escapes(world)?, Vec::<serde_json::Value>::new());
    Ok(())
}

#[test]
fn a_successor_that_dies_half_way_changes_nothing() -> Result<()> {
    let Some(mut rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &mut rig.world;
    let inside = Client::workload(world)?;
    let old = serving(world).context("no agent")?;
    let mut successor = UnixStream::connect(world.egret.run_dir().join("take-over.sock"))?;
    successor.set_read_timeout(Some(PATIENCE))?;
    successor.write_all(b"take-over 1\n")?;
    let mut answer = String::new();
    BufReader::new(successor.try_clone()?).read_line(&mut answer)?;
    assert!(answer.starts_with("frozen "), "{answer}");
    let mut command = world.egret.exec("default/other", false);
    let mut enrolment = command.arg("true").stderr(Stdio::piped()).spawn()?;
    // A third has to stay outside, whatever it is told.
    let mut third = world.egret.verb("agent");
    third.arg("--config").arg(world.config.path());
    let third = third.output()?;
    assert!(String::from_utf8_lossy(&third.stderr).contains("runs already"), "{third:?}");
    assert!(enrolment.try_wait()?.is_none(), "enrolled by an agent that is frozen");
    drop(successor);
    world.egret.process().wait_for_line("nobody took over, this agent goes on", PATIENCE)?;
    assert!(enrolment.wait()?.success(), "the enrolment did not wait for the end");
    no_failures(&inside);

    // Real ones, killed when they have begun.
    for _ in 0..3 {
        let frozen = |world: &mut World| {
            world
                .egret
                .process()
                .stderr()
                .iter()
                .filter(|line| line.contains("frozen: another agent"))
                .count()
        };
        let before = frozen(world);
        reload(world)?;
        wait::until("a take-over to begin", PATIENCE, || Ok((frozen(world) > before).then_some(())))
            .with_context(|| world.egret.process().tail())?;
        for successor in successors(world.egret.pid(Part::Supervisor)?)? {
            // It may be through already.
            let _ = kill(successor, Signal::SIGKILL);
        }
        let mark = world.external.log().mark();
        world.external.log().wait_since(mark, PATIENCE, |line| line["path"] == "/anything/inside")?;
        wait::until("an agent to serve", PATIENCE, || Ok(serving(world)))?;
    }
    assert!(old > 0);
    inside.end()?;
    assert_eq!(escapes(world)?, Vec::<serde_json::Value>::new());
    Ok(())
}

/// Children of the supervisor that are to take over.
fn successors(supervisor: Pid) -> Result<Vec<Pid>> {
    let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"))?;
    let mut found = Vec::new();
    for child in children.split_whitespace() {
        let arguments = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        if arguments.split(|byte| *byte == 0).any(|argument| argument == b"--take-over") {
            found.push(Pid::from_raw(child.parse()?));
        }
    }
    // The last one started; earlier ones are the agent by now.
    found.sort_by_key(|pid| pid.as_raw());
    Ok(found.into_iter().rev().take(1).collect())
}

#[test]
fn the_program_that_is_installed_now_is_started_and_one_that_fails_changes_nothing() -> Result<()> {
    let directory = tempfile::TempDir::with_prefix_in("egret-program-", "/run")?;
    let installed = directory.path().join("egret");
    install(&installed, |at| fs::copy(binary()?, at).map(drop).context("copy"))?;
    let Some(mut rig) = Rig::start_with(installed.clone(), Ipv4Addr::LOCALHOST)? else { return Ok(()) };
    rig.world.configure_up_to("5-mutual-tls")?;
    let world = &mut rig.world;
    let inside = Client::workload(world)?;
    let old = serving(world).context("no agent")?;

    install(&installed, |at| Ok(fs::write(at, "#!/bin/sh\nexit 3\n")?))?;
    reload(world)?;
    let said = world.egret.process().wait_for_line("the egret agent that runs stays", PATIENCE)?;
    assert!(said.contains("status 3"), "{said}");
    // The command line needs it, too.
    install(&installed, |at| fs::copy(binary()?, at).map(drop).context("copy"))?;
    assert_eq!(serving(world), Some(old));
    reload(world)?;
    let new = wait_for_successor(world, old)?;
    let program = fs::read_link(format!("/proc/{new}/exe"))?;
    assert_eq!(program, installed, "of the file as it is now");
    no_failures(&inside);
    inside.end()?;
    assert_eq!(escapes(world)?, Vec::<serde_json::Value>::new());
    Ok(())
}

/// Puts a program in place by rename, as package managers do: the running one keeps its own.
fn install(at: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let aside = at.with_extension("new");
    make(&aside)?;
    let made = Command::new("chmod").arg("755").arg(&aside).status()?;
    ensure!(made.success(), "chmod");
    Ok(fs::rename(aside, at)?)
}
