//! What runs is on workloads' cgroups only, and Ctrl-C takes all of it away.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::Ipv4Addr,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use egret_tests::{
    bpf,
    egret::{binary, free_port},
    privileges,
    process::Process,
    residue::{self, Footprint},
    scenario::OUTSIDE,
    wait,
};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount, umount},
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{Rig, passed};

#[test]
fn ctrl_c_takes_everything_away() -> Result<()> {
    let Some(mut rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &mut rig.world;
    let mut workloads = Vec::new();
    for own_namespace in [false, true] {
        let mut command = world.egret.exec("default/sleep", own_namespace);
        // Ignores SIGTERM: it has to be killed.
        command.args(["sh", "-c", "trap '' TERM; echo $$ >&2; while :; do sleep 1; done"]);
        workloads.push(Process::spawn("a workload", &mut command)?);
    }
    wait::until("two workloads to be enrolled", Duration::from_secs(15), || {
        Ok((residue::workload_cgroups(&world.egret)?.len() == 2).then_some(()))
    })?;
    let mut footprint = Footprint::of(world.egret.run_dir());
    wait::until("programs on both cgroups", Duration::from_secs(15), || {
        let cgroups = residue::workload_cgroups(&world.egret)?;
        let all = cgroups.iter().all(|cgroup| bpf::attached(cgroup).is_ok_and(|found| !found.is_empty()));
        Ok(all.then_some(()))
    })?;
    footprint.record(&world.egret)?;
    assert!(!footprint.programs().is_empty());
    assert!(!footprint.left()?.is_empty(), "the control failed: nothing is there while it runs");

    // None of them is in force for us, who are outside.
    let ours = bpf::effective(&bpf::own_cgroup()?)?;
    let captured = ours.iter().find(|(_, program)| footprint.programs().contains(program));
    assert_eq!(captured, None, "a program of a workload is in force outside of it");
    let outside = world.run(&OUTSIDE)?;
    passed(OUTSIDE.title, &outside);

    let mut parts = Vec::new();
    for part in ["supervisor", "ca", "gateway", "agent"] {
        let text = fs::read_to_string(world.egret.run_dir().join(part).with_extension("pid"))?;
        parts.push(Pid::from_raw(text.trim().parse()?));
    }
    let run_dir = world.egret.run_dir().to_owned();
    let Rig { world, directory: _directory } = rig;
    world.stop()?;
    assert_eq!(footprint.left()?, Vec::<String>::new());
    assert!(!Path::new(&run_dir).exists());
    for part in parts {
        assert_eq!(kill(part, None), Err(Errno::ESRCH), "process {part} is still there");
    }
    for mut workload in workloads {
        workload.wait(Duration::from_secs(10))?;
    }
    Ok(())
}

/// State files can be lost, and a workload may make cgroups of its own. Nothing may be alive when the programs go.
#[test]
fn what_it_has_no_state_of_is_ended_all_the_same() -> Result<()> {
    let Some(rig) = Rig::start()? else { return Ok(()) };
    let world = &rig.world;
    let script = "own=$(sed -n 's/^0:://p' /proc/self/cgroup); \
        root=$(awk '/ - cgroup2 / { print $5; exit }' /proc/self/mountinfo); \
        mkdir \"$root$own/below\" && echo $$ > \"$root$own/below/cgroup.procs\" && echo inside >&2; \
        exec sleep 600";
    let mut command = world.egret.exec("default/sleep", false);
    let mut workload = Process::spawn("a workload", command.args(["sh", "-c", script]))?;
    workload.wait_for_line("inside", Duration::from_secs(15))?;
    let mut footprint = Footprint::of(world.egret.run_dir());
    footprint.record(&world.egret)?;
    fs::remove_dir_all(world.egret.run_dir().join("workloads"))?;

    let Rig { world, directory: _directory } = rig;
    world.stop()?;
    workload.wait(Duration::from_secs(10))?;
    assert_eq!(footprint.left()?, Vec::<String>::new());
    Ok(())
}

/// What an instance made for all (the mount of bpffs, the parent of the cgroups) stays while another uses it.
#[test]
fn an_instance_that_ends_leaves_the_others_workloads_captured() -> Result<()> {
    let Some(first) = Rig::start()? else { return Ok(()) };
    let Some(second) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &second.world;
    let mut command = world.egret.exec("default/sleep", false);
    let _workload = Process::spawn("a workload", command.args(["sleep", "600"]))?;
    let attached = || {
        let cgroups = residue::workload_cgroups(&world.egret)?;
        let attached = cgroups.iter().map(|cgroup| bpf::attached(cgroup)).collect::<Result<Vec<_>>>()?;
        Ok(attached.into_iter().next().filter(|programs| !programs.is_empty()))
    };
    let before = wait::until("programs on the cgroup", Duration::from_secs(15), attached)?;
    first.world.stop()?;
    assert_eq!(attached()?, Some(before));
    let url = format!("http://{}/status/200", world.external.address());
    let answer = world.egret.curl("default/sleep", true, &["-H", "host: test.com", &url])?;
    assert_eq!(answer.status, Some(200), "{}", answer.summary());
    Ok(())
}

/// Where no bpffs was mounted, none is left mounted. In a mount namespace of its own, since others use the host's.
#[test]
fn bpffs_goes_with_the_last_instance() -> Result<()> {
    if !privileges::kernel_or_skip("the mount of bpffs") {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let mounted = || {
        Ok::<_, anyhow::Error>(fs::read_to_string("/proc/thread-self/mounts")?.contains(" /sys/fs/bpf bpf "))
    };
    while mounted()? {
        umount("/sys/fs/bpf")?;
    }
    let Some(rig) = Rig::start()? else { return Ok(()) };
    assert!(mounted()?);
    rig.world.stop()?;
    assert!(!mounted()?);
    Ok(())
}

/// Whoever reads its log dies first, as when a terminal closes or the demo is killed.
#[test]
fn it_cleans_up_when_nobody_reads_its_log_any_more() -> Result<()> {
    if !privileges::kernel_or_skip("egret up without a reader of its log") {
        return Ok(());
    }
    let directory = TempDir::with_prefix_in("egret-test-", "/run")?;
    let (config, run_dir) = (directory.path().join("config"), directory.path().join("run"));
    fs::create_dir(&config)?;
    let mut command = Command::new(binary()?);
    command.arg("up").arg("-f").arg(config).arg("--run-dir").arg(&run_dir);
    // Port 0 would do for the gateway, but then the agent could not find it.
    let port = free_port(Ipv4Addr::LOCALHOST)?;
    command.args(["--hbone-address", &format!("127.0.0.1:{port}")]).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let mut log = BufReader::new(child.stderr.take().context("no pipe")?).lines();
    while !log.next().context("it ended before it was ready")??.contains(" ready") {}
    drop(log);
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
    assert!(child.wait()?.success());
    assert!(!run_dir.exists());
    Ok(())
}
