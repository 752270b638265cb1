//! A link that a workload's network namespace gets while it runs is found and locked, stays so while the agent is away, and the
//! status says which locks hold.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, UdpSocket},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use egret::app::run_dir::RunDir;
use egret_tests::{
    bpf,
    cgroup::Cgroup,
    egret::Part,
    process::{self, Process},
    scenario::World,
    wait,
};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::{Rig, foreign, namespace};

/// A link is checked when it changes, and every two seconds.
const PATIENCE: Duration = Duration::from_secs(10);

fn ip(arguments: &str) -> Result<String> {
    process::run("ip", &arguments.split(' ').collect::<Vec<_>>())
}

fn counter(world: &World, name: &str) -> Result<u64> {
    world.egret.status()?["agent"]["counters"][name].as_u64().with_context(|| format!("no counter {name}"))
}

/// Waits until the lock on the only workload's link is so; why, where it is open.
fn wait_for(world: &World, state: &str) -> Result<Value> {
    wait::until(&format!("a link that is {state}"), PATIENCE, || {
        // Without an agent there is no answer.
        let Ok(status) = world.egret.status() else { return Ok(None) };
        let link = status["workloads"][0]["locks"]["link"].clone();
        Ok((link["state"] == state).then(|| link["why"].clone()))
    })
}

/// The pins of locks.
fn locks(world: &World) -> Result<usize> {
    let instance = RunDir::new(world.egret.run_dir()).instance();
    let links = PathBuf::from("/sys/fs/bpf/egret").join(instance).join(bpf::LAYOUT).join("links");
    let names =
        fs::read_dir(&links)?.map(|entry| Ok(entry?.file_name().to_string_lossy().starts_with("lock-")));
    Ok(names.collect::<Result<Vec<bool>>>()?.into_iter().filter(|lock| *lock).count())
}

/// Sends a datagram from inside the namespace: somebody who is in no workload's cgroup.
fn send(namespace: &Path, from: Ipv4Addr, to: Ipv4Addr) -> Result<()> {
    let namespace = File::open(namespace)?;
    let send = move || -> Result<()> {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        UdpSocket::bind((from, 0))?.send_to(b"x", (to, 9))?;
        Ok(())
    };
    thread::spawn(send).join().expect("no panic inside")
}

#[test]
fn in_the_hosts_network_there_is_no_link_to_lock() -> Result<()> {
    let Some(rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let mut command = rig.world.egret.exec("default/sleep", false);
    command.args(["sleep", "60"]);
    let _workload = Process::spawn("a workload", &mut command)?;
    assert_eq!(wait_for(&rig.world, "open")?, "host network");
    let status = rig.world.egret.status()?;
    let said = &status["workloads"][0]["locks"];
    assert_eq!(
        (said["capture"]["state"].as_str(), said["backstop"]["state"].as_str()),
        (Some("holds"), Some("holds"))
    );
    assert_eq!(locks(&rig.world)?, 0);
    Ok(())
}

#[test]
fn a_link_that_appears_is_locked() -> Result<()> {
    let Some(rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &rig.world;
    // A network for this test alone (RFC 2544 §C.2.2), and devices of a name that nobody else has.
    let [.., low] = std::process::id().to_be_bytes();
    let address = |last| Ipv4Addr::new(198, 19, low, last);
    let (host, overlay) = (format!("egl{low}h"), format!("egl{low}v"));
    let mesh = fs::read_to_string(world.config.path().join("mesh.yaml")).context("MeshConfig")?;
    let mesh = mesh.replace("spec:\n", &format!("spec:\n  bypass: [{}/32]\n", address(1)));
    world.egret.reconfigure(|| world.config.write("mesh.yaml", &mesh))?;

    let mut command = world.egret.exec("default/sleep", true);
    command.args(["sleep", "120"]);
    let _workload = Process::spawn("a workload", &mut command)?;
    wait_for(world, "closed")?;
    let status = world.egret.status()?;
    let namespace = PathBuf::from(status["workloads"][0]["namespace"].as_str().context("a namespace")?);
    assert_eq!(locks(world)?, 0);

    let inside = |command: &str| {
        process::run("nsenter", &[&format!("--net={}", namespace.display()), "sh", "-c", command])
    };
    ip(&format!("link add {host} type veth peer name eth0 netns {}", namespace.display()))?;
    wait_for(world, "holds")?;
    ip(&format!("address add {}/24 dev {host}", address(1)))?;
    ip(&format!("link set {host} up"))?;
    inside(&format!("ip address add {}/24 dev eth0 && ip link set eth0 up", address(2)))?;
    inside(&format!("ip route add default via {}", address(1)))?;
    assert_eq!(locks(world)?, 2);

    // Its address is known: what may be reached is reached. Nothing else is.
    let passes = |from| {
        let before = counter(world, "link_passed_direct")?;
        wait::until("its address", PATIENCE, || {
            send(&namespace, from, address(1))?;
            Ok((counter(world, "link_passed_direct")? > before).then_some(()))
        })
    };
    let rises = |name, from, to| {
        let before = counter(world, name)?;
        send(&namespace, from, to)?;
        wait::until("the drop", PATIENCE, || Ok((counter(world, name)? > before).then_some(())))
    };
    passes(address(2))?;
    rises("link_dropped_destination", address(2), world.external.address())?;
    // Addresses that it adds later count when this machine's routes lead to them by the link: somebody else's does not.
    inside(&format!("ip address add {}/32 dev eth0", world.external.address()))?;
    inside(&format!("ip address add {}/24 dev eth0", address(3)))?;
    passes(address(3))?;
    rises("link_dropped_source", world.external.address(), address(1))?;

    let killed = world.egret.kill(Part::Agent)?;
    assert_eq!(locks(world)?, 2, "it stays while the agent is away");
    wait::until("another agent", PATIENCE, || {
        Ok(world.egret.pid(Part::Agent).is_ok_and(|pid| pid != killed).then_some(()))
    })?;
    wait_for(world, "holds")?;
    assert_eq!(counter(world, "programs_reattached")?, 0, "nothing was missing");

    // A second way out, which has no host's side.
    ip(&format!("link add {overlay} type vxlan id 7 dstport 0 dev lo"))?;
    ip(&format!("link set {overlay} netns {}", namespace.display()))?;
    let why = wait_for(world, "open")?;
    assert!(why.as_str().is_some_and(|why| why.contains("vxlan") && why.contains(&overlay)), "{why}");
    let doctor = world.egret.verb("doctor").args(["-o", "json"]).output()?;
    let report: Value = serde_json::from_slice(&doctor.stdout)?;
    let checks = report["checks"].as_array().context("checks")?;
    let named = checks.iter().find(|check| check["name"] == "locks of workloads").context("the locks")?;
    assert_eq!(named["status"], "warning");
    assert!(named["finding"].as_str().is_some_and(|text| text.contains("vxlan")), "{named}");
    let table = world.egret.verb("status").output()?;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("LOCKS") && table.contains("no link ("), "{table}");

    // Both go.
    inside(&format!("ip link delete {overlay}"))?;
    wait_for(world, "holds")?;
    ip(&format!("link delete {host}"))?;
    wait_for(world, "closed")?;
    wait::until("the pins to go", PATIENCE, || Ok((locks(world)? == 0).then_some(())))?;
    Ok(())
}

#[test]
fn somebody_elses_network_is_not_locked() -> Result<()> {
    if !egret_tests::privileges::kernel_or_skip("a service in somebody else's network namespace") {
        return Ok(());
    }
    let network = namespace()?;
    let Some(mut rig) = Rig::start_with_gateway(network.host_address())? else { return Ok(()) };
    let world = &mut rig.world;
    world.configure_up_to("5-mutual-tls")?;
    let of = |process: &Process| fs::read_link(format!("/proc/{}/ns/net", process.id()));
    let own = fs::read_link("/proc/self/ns/net")?;
    let mut command = network.command(Path::new("sleep"));
    let mut resident = Process::spawn("a resident", command.arg("120"))?;
    wait::until("it to be there", PATIENCE, || Ok((of(&resident)? != own).then_some(())))?;

    // A service goes there, as those that look after a node do.
    let cgroup = Cgroup::new()?;
    let command = format!("ip netns exec {} sleep 120", network.name());
    let _visitor = Process::spawn("a visitor", &mut foreign::inside(cgroup.path(), &command))?;
    foreign::enroll(world, ["--cgroup", &cgroup.path().to_string_lossy()])?;
    let why = wait::until("its network", PATIENCE, || {
        let why = wait_for(world, "open")?;
        Ok(why.as_str().filter(|why| why.contains("which is no workload")).map(str::to_owned))
    })?;
    assert!(why.contains(&resident.id().to_string()), "{why}");
    assert_eq!(locks(world)?, 0, "the resident keeps its link");

    // Alone there, it is whose network it is.
    resident.terminate()?;
    wait_for(world, "holds")?;
    assert_eq!(locks(world)?, 2);
    Ok(())
}
