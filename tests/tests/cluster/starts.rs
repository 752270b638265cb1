//! Pods whose first instruction is a request to the outside, while the agents are killed and restarted: none of them arrives directly, and
//! all of them arrive.
//!
//! `EGRET_POD_STARTS=300` is the full number, a few minutes on two cores; otherwise it is a part of them.

use std::{
    collections::BTreeSet,
    env,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use egret_tests::{
    cluster::{
        installed::{Installed, NAMESPACE},
        plan::NODES,
    },
    json_log::Mark,
    wait,
};
use serde_json::{Value, json};

use crate::outside::Outside;

/// Enrolled by its label; enrolled by the pods' own; and not enrolled.
const NAMESPACES: [&str; 3] = ["starts", "starts-word", "starts-free"];
const BY_NAMESPACE: &str = NAMESPACES[0];
const BY_POD: &str = NAMESPACES[1];
const FREE: &str = NAMESPACES[2];
const DEFAULT_STARTS: usize = 60;
/// How many pods start at a time.
const BATCH: usize = 50;
/// What a batch gets until all of it has arrived.
const PATIENCE: Duration = Duration::from_mins(5);
/// What an agent gets to be ready again.
const RESTART: Duration = Duration::from_mins(3);

#[test]
fn nothing_of_a_pods_start_arrives_directly() -> Result<()> {
    let Some(egret) = super::installed()? else { return Ok(()) };
    let outside = Outside::start(&egret)?;
    for namespace in NAMESPACES {
        egret.namespace(namespace, namespace == BY_NAMESPACE)?;
    }
    the_outside_sees_what_is_not_enrolled(&egret, &outside)?;

    let starts = match env::var("EGRET_POD_STARTS") {
        Ok(number) => number.parse()?,
        Err(_) => DEFAULT_STARTS,
    };
    let capture = outside.watch()?;
    let mark = outside.mark();
    let began = Instant::now();
    let (stop, restarts) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let restarting = scope.spawn(|| restart_agents(&egret, &stop, &restarts));
        let started = (0..starts).step_by(BATCH).try_for_each(|first| {
            let batch = first..starts.min(first + BATCH);
            let pods: Vec<_> = batch
                .map(|number| pod(number, [BY_NAMESPACE, BY_POD][number / 2 % 2], &outside.url()))
                .collect();
            run(&egret, &outside, mark, &pods)
        });
        stop.store(true, Relaxed);
        restarting.join().map_err(|_| anyhow!("the restarts panicked"))?.and(started)
    })?;
    let (took, restarts) = (began.elapsed(), restarts.into_inner());
    let arrivals = outside.since(mark)?;
    let direct: Vec<_> = arrivals.iter().filter(|arrival| !arrival.by_gateway).collect();
    say(&format!(
        "{starts} starts, {restarts} restarts of agents, {} requests arrived, {} of them directly, in {took:?}",
        arrivals.len(),
        direct.len()
    ));
    ensure!(direct.is_empty(), "{direct:?}");
    let packets = outside.direct(capture)?;
    ensure!(packets.is_empty(), "packets that no gateway sent: {packets:?}");
    ensure!(restarts >= NODES.len(), "the agents were restarted only {restarts} times");
    egret.wait_until_ready()?;
    NAMESPACES.into_iter().try_for_each(|namespace| egret.remove_namespace(namespace))
}

/// The same pods where nobody asked for capture: their requests arrive directly, so they would be seen.
fn the_outside_sees_what_is_not_enrolled(egret: &Installed, outside: &Outside) -> Result<()> {
    let (capture, mark) = (outside.watch()?, outside.mark());
    let pods: Vec<_> = (0..4).map(|number| pod(number, FREE, &outside.url())).collect();
    run(egret, outside, mark, &pods)?;
    let arrivals = outside.since(mark)?;
    ensure!(arrivals.iter().all(|arrival| !arrival.by_gateway), "{arrivals:?}");
    let packets = outside.direct(capture)?;
    ensure!(packets.len() == pods.len(), "of {} pods, packets came from {packets:?}", pods.len());
    Ok(())
}

/// Starts pods, waits until both requests of each have arrived, one way or the other, and removes them.
fn run(egret: &Installed, outside: &Outside, mark: Mark, pods: &[Value]) -> Result<()> {
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": pods });
    egret.kube().apply(&list.to_string())?;
    let names = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str());
    let tags: BTreeSet<String> =
        names.flat_map(|name| ["init", "main"].map(|which| format!("{name}-{which}"))).collect();
    let mut missing = tags.clone();
    wait::until("the requests of all pods", PATIENCE, || {
        let arrived: BTreeSet<_> = outside.since(mark)?.into_iter().map(|arrival| arrival.tag).collect();
        missing = tags.difference(&arrived).cloned().collect();
        Ok(missing.is_empty().then_some(()))
    })
    .map_err(|error| error.context(format!("nothing arrived of {missing:?}")))?;
    for namespace in NAMESPACES {
        egret.kube().kubectl(&["delete", "pods", "--all", "-n", namespace, "--now", "--wait=false"])?;
    }
    Ok(())
}

/// Kills and restarts agents, as people do and as crashes do, until told to stop.
fn restart_agents(egret: &Installed, stop: &AtomicBool, restarts: &AtomicUsize) -> Result<()> {
    let rounds = [&["--wait=false"][..], &["--grace-period=0", "--force"]];
    for how in rounds.into_iter().cycle() {
        for node in NODES {
            if stop.load(Relaxed) {
                return Ok(());
            }
            let agent = egret.agent_on(node)?;
            egret.kube().kubectl(&[&["delete", "pod", "-n", NAMESPACE, &agent], how].concat())?;
            restarts.fetch_add(1, Relaxed);
            egret.kube().wait_for_rollout(NAMESPACE, "daemonset/egret-agent", RESTART)?;
        }
        egret.kube().kubectl(&["rollout", "restart", "-n", NAMESPACE, "daemonset/egret-agent"])?;
        restarts.fetch_add(NODES.len(), Relaxed);
        egret.kube().wait_for_rollout(NAMESPACE, "daemonset/egret-agent", RESTART)?;
    }
    Ok(())
}

/// A pod that asks with its first instruction, in its init container and in its own, and goes on until it is answered. (A file that
/// it cannot truncate, such as `/dev/null`, would be the end of curl's retries.)
fn pod(number: usize, namespace: &str, url: &str) -> Value {
    let name = format!("start-{number}");
    let asks = |which: &str| {
        let host = format!("host: {name}-{which}.test");
        json!({ "name": which, "image": "sleep:test", "imagePullPolicy": "Never", "command": [
            "curl", "-qs", "--max-time", "10",
            "--retry", "120", "--retry-all-errors", "--retry-delay", "1", "-H", host, url
        ] })
    };
    let labels = if namespace == BY_POD { json!({ "egret.dev/egress": "enabled" }) } else { json!({}) };
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": namespace, "labels": labels },
        "spec": {
            "nodeName": NODES[number % NODES.len()], "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "initContainers": [asks("init")], "containers": [asks("main")],
        },
    })
}

#[expect(clippy::print_stderr, reason = "addressed to whoever runs the tests")]
fn say(text: &str) {
    eprintln!("{text}");
}
