//! The cluster's network: a bridge on the control machine, a link to each node and one to this machine, a route per node's
//! pods. The control machine also owns every address of what plays the internet.
//!
//! Nothing translates addresses: the internet sees pods by their own.

use std::path::Path;

use anyhow::Result;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cluster::{
        machine::Machine,
        plan::{INTERNET, NODES, Plan},
    },
    process::run,
};

const BRIDGE: &str = "nodes";
/// Its hardware address. By itself a bridge has one of its ports', and another one when that node is killed: then the others would
/// not reach it until their tables are corrected.
const HARDWARE_ADDRESS: &str = "02:00:00:00:00:01";

/// The control machine's side, and this machine's link to it.
pub(super) fn control(plan: &Plan, machine: &Machine) -> Result<()> {
    let (name, prefix) = (plan.link(), plan.prefix());
    run("ip", &["netns", "attach", &name, &process_one(machine)])?;
    let inside = |arguments: &[&str]| run("ip", &[&["-n", &name], arguments].concat());
    inside(&["link", "add", BRIDGE, "address", HARDWARE_ADDRESS, "type", "bridge"])?;
    inside(&["addr", "add", &format!("{}/{prefix}", plan.control()), "dev", BRIDGE])?;
    inside(&["link", "set", BRIDGE, "up"])?;
    for range in INTERNET {
        inside(&["route", "add", "local", range, "dev", "lo"])?;
    }
    forwarding(machine)?;
    let own = std::process::id().to_string();
    inside(&["link", "add", "host", "type", "veth", "peer", "name", &name, "netns", &own])?;
    inside(&["link", "set", "host", "master", BRIDGE, "up"])?;
    run("ip", &["addr", "add", &format!("{}/{prefix}", plan.host()), "dev", &name])?;
    run("ip", &["link", "set", &name, "up"])?;
    Ok(())
}

/// A node's link, addresses and routes; also of one that starts again.
pub(super) fn node(plan: &Plan, index: usize, machine: &Machine) -> Result<()> {
    let (name, node) = (plan.link(), NODES[index]);
    let inside = |arguments: &[&str]| run("ip", &[&["-n", &name], arguments].concat());
    let (pid, address) = (process_one(machine), plan.node(index).to_string());
    // Its link from before goes away some time after its machine. It need not be there.
    let _ = inside(&["link", "del", node]);
    inside(&["link", "add", node, "type", "veth", "peer", "name", "eth0", "netns", &pid])?;
    inside(&["link", "set", node, "master", BRIDGE, "up"])?;
    let on_node = |arguments: &[&str]| machine.run("ip", arguments);
    on_node(&["addr", "add", &format!("{address}/{}", plan.prefix()), "dev", "eth0"])?;
    on_node(&["link", "set", "eth0", "up"])?;
    on_node(&["route", "add", "default", "via", &plan.control().to_string()])?;
    inside(&["route", "replace", &plan.pods(index), "via", &address])?;
    forwarding(machine)
}

/// Cuts a node off: nobody hears of it any more, not even that its connections end.
pub(super) fn cut(plan: &Plan, node: &str) -> Result<()> {
    run("ip", &["-n", &plan.link(), "link", "set", node, "down"]).map(drop)
}

/// Removes what [`control`] made on this machine.
pub(super) fn remove(plan: &Plan) -> Result<()> {
    let name = plan.link();
    if exists_link(&name) {
        run("ip", &["link", "del", &name])?;
    }
    if exists_namespace(&name) {
        // Such as an external service whose test was killed.
        for pid in processes(&name)? {
            let _ = kill(pid, Signal::SIGKILL);
        }
        run("ip", &["netns", "del", &name])?;
    }
    Ok(())
}

/// What of it is there, one sentence each.
pub(super) fn left(plan: &Plan) -> Vec<String> {
    let name = plan.link();
    let mut left = Vec::new();
    if exists_link(&name) {
        left.push(format!("the link {name} is still there"));
    }
    if exists_namespace(&name) {
        left.push(format!("the network namespace {name} is still there"));
    }
    left
}

/// Processes in a namespace.
fn processes(namespace: &str) -> Result<Vec<Pid>> {
    let listed = run("ip", &["netns", "pids", namespace])?;
    Ok(listed.lines().filter_map(|line| line.trim().parse().ok()).map(Pid::from_raw).collect())
}

fn exists_link(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

fn exists_namespace(name: &str) -> bool {
    Path::new("/run/netns").join(name).exists()
}

fn forwarding(machine: &Machine) -> Result<()> {
    machine.run("/bin/sh", &["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]).map(drop)
}

fn process_one(machine: &Machine) -> String {
    machine.process_one().unwrap_or_default().to_string()
}
