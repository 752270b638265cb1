//! What somebody takes away under a running workload is noticed, counted, and made good: programs, listeners, the way itself.
//! Connections that went out meanwhile are found, counted and ended.

use std::{
    fs,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use egret::app::run_dir::RunDir;
use egret_tests::{
    bpf,
    egret::Part,
    process::{self, Process},
    scenario::World,
    wait,
};
use nix::{
    errno::Errno,
    libc,
    sched::{CloneFlags, setns},
    sys::socket::{Shutdown, shutdown},
};
use serde_json::Value;

use crate::Rig;

/// The product promises five seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pinned links of the only workload.
fn links(world: &World) -> Result<Vec<PathBuf>> {
    let instance = RunDir::new(world.egret.run_dir()).instance();
    let directory = PathBuf::from("/sys/fs/bpf/egret").join(instance).join(bpf::LAYOUT).join("links");
    let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

fn counter(world: &World, name: &str) -> Result<u64> {
    let status = world.egret.status()?;
    status["agent"]["counters"][name].as_u64().with_context(|| format!("no {name} in the status"))
}

/// A running workload: its process, and its entry in the status.
fn workload(world: &World, own_namespace: bool, script: &str) -> Result<(Process, Value)> {
    let mut command = world.egret.exec("default/sleep", own_namespace);
    let process = Process::spawn("a workload", command.args(["sh", "-c", script]))?;
    let enrolled = wait::until("the workload to be enrolled", PATIENCE, || {
        let status = world.egret.status()?;
        Ok(status["workloads"].get(0).cloned())
    })?;
    Ok((process, enrolled))
}

/// Shuts down every TCP listener of a process, by its own descriptors. The agent has none but for workloads.
fn shut_listeners(process: i32) -> Result<usize> {
    let mut listening = Vec::new();
    for table in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{process}/net/{table}"))?;
        let rows = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        // State, and inode.
        listening.extend(rows.filter(|row| row[3] == "0A").map(|row| format!("socket:[{}]", row[9])));
    }
    // SAFETY: plain numbers; what the kernel returns is a descriptor of ours, or negative.
    let open = |number: libc::c_long, a: i32, b: i32| unsafe {
        let fd = Errno::result(libc::syscall(number, a, b, 0))?;
        Ok::<_, Errno>(OwnedFd::from_raw_fd(i32::try_from(fd).unwrap_or(-1)))
    };
    let handle = open(libc::SYS_pidfd_open, process, 0)?;
    let mut shut = 0;
    for entry in fs::read_dir(format!("/proc/{process}/fd"))? {
        let entry = entry?;
        let target = fs::read_link(entry.path()).unwrap_or_default();
        if listening.iter().any(|socket| target.as_os_str() == socket.as_str()) {
            let number = entry.file_name().to_string_lossy().parse()?;
            let socket = open(libc::SYS_pidfd_getfd, handle.as_raw_fd(), number)?;
            shutdown(socket.as_raw_fd(), Shutdown::Both)?;
            shut += 1;
        }
    }
    Ok(shut)
}

#[test]
fn a_listener_that_died_is_opened_again() -> Result<()> {
    let Some(rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &rig.world;
    let asks = format!(
        "while :; do curl -q -s -o /dev/null --noproxy '*' --max-time 5 -H host:test.com http://{}/anything; sleep 0.1; done",
        world.external.address()
    );
    let (_workload, _) = workload(world, false, &asks)?;
    let arrives = |world: &World| {
        let mark = world.external.log().mark();
        world.external.log().wait_since(mark, PATIENCE, |line| line["path"] == "/anything").map(drop)
    };
    arrives(world)?;
    wait::until("the way to be checked", 2 * PATIENCE, || Ok((counter(world, "hops")? >= 1).then_some(())))?;
    assert_eq!(counter(world, "listeners_reopened")?, 0);
    let shut = shut_listeners(world.egret.pid(Part::Agent)?.as_raw())?;
    assert!(shut >= 1, "no listener was found");
    wait::until(
        "new listeners",
        PATIENCE,
        || Ok((counter(world, "listeners_reopened")? >= 1).then_some(())),
    )?;
    arrives(world)
}

#[test]
fn a_way_that_is_broken_is_noticed() -> Result<()> {
    let Some(rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &rig.world;
    let (_workload, enrolled) = workload(world, true, "sleep 60")?;
    let namespace = PathBuf::from(enrolled["namespace"].as_str().context("no namespace")?);
    let loopback = |state: &'static str| {
        let namespace = fs::File::open(&namespace)?;
        thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            process::run("ip", &["link", "set", "lo", state]).map(drop)
        })
        .join()
        .expect("no panic")
    };
    let more = |name: &str, than: u64| {
        wait::until(&format!("more {name}"), 2 * PATIENCE, || {
            Ok(Some(counter(world, name)?).filter(|count| *count > than))
        })
    };
    more("hops", 0)?;
    assert_eq!(counter(world, "hops_failed")?, 0);
    loopback("down")?;
    let failed = more("hops_failed", 1)?;
    loopback("up")?;
    more("hops", counter(world, "hops")?)?;
    assert!(counter(world, "hops_failed")? <= failed + 1);
    // What the agent makes in the workload's cgroup neither ends it nor is one of its flows.
    assert_eq!(world.egret.status()?["workloads"].as_array().map(Vec::len), Some(1));
    assert_eq!(world.egret.flows()?.as_array().map(Vec::len), Some(0), "{}", world.egret.flows()?);
    Ok(())
}

#[test]
fn detached_programs_are_attached_again() -> Result<()> {
    let Some(rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &rig.world;
    let (_workload, enrolled) = workload(world, false, "sleep 60")?;
    let cgroup = PathBuf::from(enrolled["cgroup"].as_str().context("no cgroup")?);
    wait::until("programs", PATIENCE, || Ok((!bpf::attached(&cgroup)?.is_empty()).then_some(())))?;
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
