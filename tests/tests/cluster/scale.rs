//! A big cluster: what happens on other nodes costs an agent nothing.

use std::{
    fs, process, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use egret_tests::cluster::{Cluster, Kube, plan::NODES};
use serde_json::{Value, json};

const NAMESPACES: usize = 500;
/// Of these, so many are enrolled.
const ENROLLED: usize = 200;
const PODS_OF_EACH: usize = 4;
/// How many kubectl create them.
const HANDS: usize = 4;

/// How long CPU time is counted where nothing happens.
const STEADY: Duration = Duration::from_secs(15);
/// What an agent may grow by: names and labels of the enrolled namespaces, and what its allocator keeps.
const GROWTH_KIB: i64 = 2048;
/// What more of a CPU it may take where nothing happens: 1 %.
const BUSIER: f64 = 0.01;

/// An agent, from outside.
struct Agent {
    node: &'static str,
    pid: u32,
}

/// What it has used. Memory of its own: the pages of the program come and go with what it does.
#[derive(Clone, Copy)]
struct Used {
    cpu: Duration,
    own_kib: i64,
}

impl Agent {
    /// The agent of a node, which lives in the node's PID namespace.
    fn of(cluster: &Cluster, node: &'static str) -> Result<Self> {
        let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let machine = cluster.node(node)?.process_one().and_then(namespace).context("the node runs")?;
        let numbers = fs::read_dir("/proc")?.flatten();
        let pid = numbers
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| namespace(*pid).as_ref() == Some(&machine))
            .find(|pid| {
                let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                command.starts_with(b"/egret\0agent\0")
            });
        Ok(Self { node, pid: pid.with_context(|| format!("no agent on {node}"))? })
    }

    fn used(&self) -> Result<Used> {
        let read = |file: &str| {
            fs::read_to_string(format!("/proc/{}/{file}", self.pid))
                .with_context(|| format!("the agent of {} has ended", self.node))
        };
        let (stat, status) = (read("stat")?, read("status")?);
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks: u64 = after_name
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let own = own.and_then(|text| text.split_whitespace().next()).context("RssAnon")?;
        // Linux counts a hundred a second.
        Ok(Used { cpu: Duration::from_millis(ticks * 10), own_kib: own.parse()? })
    }

    /// Parts of a CPU it takes where nothing happens, and how big it is.
    fn steady(agents: &[Self]) -> Result<Vec<(f64, i64)>> {
        let before = agents.iter().map(Self::used).collect::<Result<Vec<_>>>()?;
        let started = Instant::now();
        thread::park_timeout(STEADY);
        let taken = started.elapsed();
        let both = agents.iter().zip(before);
        both.map(|(agent, before)| {
            let now = agent.used()?;
            Ok(((now.cpu - before.cpu).as_secs_f64() / taken.as_secs_f64(), now.own_kib))
        })
        .collect()
    }
}

#[test]
fn what_is_on_other_nodes_costs_an_agent_nothing() -> Result<()> {
    let Some(egret) = super::installed()? else { return Ok(()) };
    let agents = NODES.map(|node| Agent::of(egret.cluster(), node));
    let agents = agents.into_iter().collect::<Result<Vec<_>>>()?;
    let before = Agent::steady(&agents)?;

    let (started, earlier) = (Instant::now(), agents.iter().map(Agent::used).collect::<Result<Vec<_>>>()?);
    let crowd = Crowd::gather(egret.kube())?;
    let took = started.elapsed();
    let during = agents.iter().map(Agent::used).collect::<Result<Vec<_>>>()?;
    let after = Agent::steady(&agents)?;
    crowd.is_there()?;

    println!("{NAMESPACES} namespaces and {} pods in {took:?}", NAMESPACES * PODS_OF_EACH);
    for (index, agent) in agents.iter().enumerate() {
        let ((cpu, own), (cpu_after, own_after)) = (before[index], after[index]);
        let numbers = format!(
            "the agent of {}: {own} KiB and {:.2} % of a CPU before, {:.0} ms of CPU meanwhile, {own_after} KiB and \
             {:.2} % after",
            agent.node,
            cpu * 100.0,
            (during[index].cpu - earlier[index].cpu).as_secs_f64() * 1000.0,
            cpu_after * 100.0
        );
        println!("{numbers}");
        ensure!(own_after - own < GROWTH_KIB, "it grew; {numbers}");
        ensure!(cpu_after - cpu < BUSIER, "it is busier; {numbers}");
    }
    Ok(())
}

/// Namespaces with pods on no node. They are deleted at the end, which takes the cluster a while that nobody waits for.
struct Crowd<'a> {
    kube: &'a Kube,
    /// Marks all of one run: those of an earlier one may still be there.
    run: String,
}

impl<'a> Crowd<'a> {
    fn gather(kube: &'a Kube) -> Result<Self> {
        let crowd = Self { kube, run: format!("crowd-{}", process::id()) };
        let numbers: Vec<_> = (0..NAMESPACES).collect();
        thread::scope(|scope| {
            let crowd = &crowd;
            let hands: Vec<_> = numbers
                .chunks(NAMESPACES.div_ceil(HANDS))
                .map(|numbers| {
                    scope.spawn(|| {
                        let objects = numbers.iter().flat_map(|number| crowd.of_one(*number));
                        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects.collect::<Vec<_>>() });
                        kube.create(&list.to_string())
                    })
                })
                .collect();
            hands.into_iter().try_for_each(|hand| hand.join().expect("it does not panic").map(drop))
        })?;
        Ok(crowd)
    }

    fn of_one(&self, number: usize) -> Vec<Value> {
        let name = format!("{}-{number}", self.run);
        let mut labels = json!({ "crowd": self.run });
        if number < ENROLLED {
            labels["egret.dev/egress"] = json!("enabled");
        }
        let mut objects = vec![
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": labels } }),
            // The default one the cluster makes a moment later only.
            json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "nobody", "namespace": name } }),
        ];
        objects.extend((0..PODS_OF_EACH).map(|pod| {
            json!({ "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": format!("pod-{pod}"), "namespace": name, "labels": { "crowd": self.run } },
                "spec": { "schedulerName": "nobody", "serviceAccountName": "nobody", "automountServiceAccountToken": false,
                    "containers": [{ "name": "none", "image": "none" }] } })
        }));
        objects
    }

    fn is_there(&self) -> Result<()> {
        let selector = format!("crowd={}", self.run);
        let pods = self.kube.kubectl(&["get", "pods", "-A", "-l", &selector, "-o", "name"])?;
        let count = pods.lines().count();
        ensure!(count == NAMESPACES * PODS_OF_EACH, "there are only {count} pods");
        Ok(())
    }
}

impl Drop for Crowd<'_> {
    fn drop(&mut self) {
        let selector = format!("crowd={}", self.run);
        drop(self.kube.kubectl(&["delete", "namespaces", "-l", &selector, "--wait=false"]));
    }
}
