//! The label `egret.dev/egress`: whom it enrols, how soon, and what the condition `egret.dev/Captured` says.
//!
//! Every container asks the outside again and again, under a host name of its own. What arrives there, from a gateway or not, and when,
//! is all that counts: no container is touched while labels change.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use egret_tests::{
    cluster::{
        installed::{self, Installed, condition},
        plan::NODES,
    },
    json_log::Mark,
    wait,
};
use serde_json::{Value, json};

use crate::outside::{Arrival, Outside};

const NAMESPACE: &str = "enrolment";
const LABEL: &str = "egret.dev/egress";
/// How soon a label has to be in force: nothing that starts later goes the old way.
const SOON_MS: u64 = 1000;
/// What pods get to start, and conditions to be written.
const START: Duration = Duration::from_mins(1);
/// How long it is watched what follows a change. In that time a request has to arrive the new way, which takes certificates and
/// handshakes besides, on a machine that may be busy.
const WATCHED: Duration = Duration::from_secs(5);
/// Where the kubelet looks for static pods.
const STATIC: &str = "/var/lib/kubelet/static-pods/enrolment.json";

/// How often a container asks.
const RATE: &str = "10/s";

/// The containers that follow the namespace's label, and their pods.
const FOLLOWERS: [(&str, &str); 9] = [
    ("plain", "plain"),
    ("sidecar", "many"),
    ("first", "many"),
    ("second", "many"),
    ("host", "host"),
    ("static", "static-node-1"),
    ("guaranteed", "guaranteed"),
    ("burstable", "burstable"),
    ("odd", "odd"),
];

#[test]
fn a_label_enrols_what_runs_and_lets_it_go_again() -> Result<()> {
    let Some(egret) = super::installed()? else { return Ok(()) };
    let outside = Outside::start(&egret)?;
    egret.namespace(NAMESPACE, false)?;
    let scene = Scene { egret: &egret, outside: &outside };
    let _static = scene.start_static_pod()?;
    scene.start(&running(&outside.url()))?;

    let followers = FOLLOWERS.map(|(tag, _)| tag);
    let mark = Mark::default();
    scene.wait_for(mark, &[&followers[..], &["own-word-off", "first-init"]].concat(), false)?;
    scene.wait_for(mark, &["own-word-on"], true)?;
    scene.expect("plain", None)?;
    scene.expect("odd", Some(("False", "InvalidLabel", "means nothing")))?;
    scene.expect("own-word-on", Some(("True", "Captured", "captured by egret agent ")))?;
    scene.expect("own-word-off", Some(("False", "Disabled", "says disabled")))?;
    let containers = scene.started_containers()?;

    let took = scene.relabel(&format!("{LABEL}=enabled"), &followers, true)?;
    say(&format!("captured after the label, in ms: {took:?}"));
    for (_, pod) in FOLLOWERS {
        scene.expect(pod, Some(("True", "Captured", "captured by egret agent ")))?;
    }
    scene.expect("odd", Some(("True", "Captured", "means nothing")))?;
    scene.expect("host", Some(("True", "Captured", "no lock on its link")))?;
    scene.starts_captured()?;
    scene.a_debug_container_is_captured()?;
    ensure!(scene.containers()? == containers, "something was restarted: {containers:?}");

    // Nobody knows what the odd one's label means without the namespace's: it stays as it is.
    let free: Vec<_> =
        followers.into_iter().filter(|tag| *tag != "odd").chain(["debugger", "late"]).collect();
    let mark = outside.mark();
    let took = scene.relabel(&format!("{LABEL}-"), &free, false)?;
    say(&format!("let go after the label, in ms: {took:?}"));
    for (_, pod) in FOLLOWERS.into_iter().filter(|(_, pod)| *pod != "odd") {
        scene.expect(pod, Some(("False", "Disabled", "neither it nor its namespace")))?;
    }
    scene.expect("odd", Some(("True", "InvalidLabel", "means nothing")))?;
    scene.expect("own-word-on", Some(("True", "Captured", "captured by egret agent ")))?;
    let odd = of(&outside.since(mark)?, "odd");
    ensure!(!odd.is_empty() && odd.iter().all(|arrival| arrival.by_gateway), "{odd:?}");
    ensure!(scene.containers()? == containers, "something was restarted: {containers:?}");

    // What a pod itself says wins, whatever the namespace said meanwhile.
    let all = outside.since(Mark::default())?;
    for (tag, by_gateway) in [("own-word-on", true), ("own-word-off", false)] {
        let arrivals = of(&all, tag);
        let wrong: Vec<_> = arrivals.iter().filter(|arrival| arrival.by_gateway != by_gateway).collect();
        ensure!(arrivals.len() > 10 && wrong.is_empty(), "{tag}: {wrong:?}");
    }
    egret.remove_namespace(NAMESPACE)
}

#[test]
fn egrets_own_pods_are_never_captured() -> Result<()> {
    let Some(egret) = super::installed()? else { return Ok(()) };
    let outside = Outside::start(&egret)?;
    let _label = Labelled::namespace(&egret, installed::NAMESPACE)?;
    // The first namespace's pods, and one of them that is not Egret's.
    let stranger = container("stranger", &outside.url(), &json!({}));
    let pod = pod("stranger", None, &json!({}), &json!({ "containers": [stranger] }));
    egret.kube().apply(&within(installed::NAMESPACE, &pod).to_string())?;
    let outcome = (|| {
        wait::until("the stranger's requests", START, || {
            let arrivals = of(&outside.since(Mark::default())?, "stranger");
            ensure!(arrivals.iter().all(|arrival| arrival.by_gateway), "{arrivals:?}");
            Ok((arrivals.len() > 3).then_some(()))
        })?;
        let pods = ["pods", "-n", installed::NAMESPACE, "-l", "app.kubernetes.io/name=egret"];
        egret.kube().wait_for("Egret's pods to say that they are not captured", &pods, START, |list| {
            let pods = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
            // Two agents, two gateways, a CA.
            pods.len() >= 5
                && pods.iter().all(|pod| {
                    condition(pod)
                        .is_some_and(|found| found["status"] == "False" && found["reason"] == "AgentOwnPod")
                })
        })
    })();
    egret.kube().kubectl(&["delete", "pod", "-n", installed::NAMESPACE, "stranger", "--now"])?;
    outcome.map(drop)
}

/// The pods of the test, in their namespace.
struct Scene<'a> {
    egret: &'a Installed,
    outside: &'a Outside,
}

impl Scene<'_> {
    fn start(&self, pods: &[Value]) -> Result<()> {
        let items: Vec<_> = pods.iter().map(|pod| within(NAMESPACE, pod)).collect();
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
        self.egret.kube().apply(&list.to_string()).map(drop)
    }

    /// The kubelet's own pod, by a file on the first node, which goes with what this returns.
    fn start_static_pod(&self) -> Result<StaticPod<'_>> {
        let node = self.egret.cluster().node(NODES[0])?;
        let spec = json!({ "containers": [container("static", &self.outside.url(), &json!({}))] });
        let manifest = within(NAMESPACE, &pod("static", None, &json!({}), &spec)).to_string();
        node.run("/bin/sh", &["-c", "printf %s \"$0\" >\"$1\"", &manifest, STATIC])?;
        Ok(StaticPod(self.egret))
    }

    /// A pod that starts now is captured from the first instruction of its init container on.
    fn starts_captured(&self) -> Result<()> {
        let mark = self.outside.mark();
        let url = self.outside.url();
        let init = container("late-init", &url, &json!({ "command": once("late-init", &url) }));
        let sidecar = container("late-sidecar", &url, &json!({ "restartPolicy": "Always" }));
        let spec =
            json!({ "initContainers": [init, sidecar], "containers": [container("late", &url, &json!({}))] });
        self.start(&[pod("late", Some(1), &json!({}), &spec)])?;
        let tags = ["late-init", "late-sidecar", "late"];
        self.wait_for(mark, &tags, true)?;
        let arrivals = self.outside.since(mark)?;
        let direct: Vec<_> =
            arrivals.iter().filter(|one| tags.contains(&&*one.tag) && !one.by_gateway).collect();
        ensure!(direct.is_empty(), "{direct:?}");
        self.expect("late", Some(("True", "Captured", "captured by egret agent ")))
    }

    fn a_debug_container_is_captured(&self) -> Result<()> {
        let mark = self.outside.mark();
        let command = again_and_again("debugger", &self.outside.url());
        let mut arguments =
            vec!["debug", "-n", NAMESPACE, "plain", "--container=debugger", "--profile=general"];
        arguments.extend(["--image=sleep:test", "--image-pull-policy=Never", "--"]);
        arguments.extend(command.iter().map(String::as_str));
        self.egret.kube().kubectl(&arguments)?;
        self.wait_for(mark, &["debugger"], true)?;
        let arrivals = of(&self.outside.since(mark)?, "debugger");
        ensure!(arrivals.iter().all(|arrival| arrival.by_gateway), "{arrivals:?}");
        Ok(())
    }

    /// Changes the namespace's label. How many milliseconds later the first request of each of `tags` arrived the new way; an error
    /// where none did, or one went the old way too late.
    fn relabel(&self, label: &str, tags: &[&str], by_gateway: bool) -> Result<BTreeMap<String, u64>> {
        let mark = self.outside.mark();
        self.egret.kube().kubectl(&["label", "namespace", NAMESPACE, label])?;
        let changed = now();
        let watched_until = changed + WATCHED.as_millis() as u64;
        wait::until("what follows the change", WATCHED * 2, || Ok((now() >= watched_until).then_some(())))?;
        let arrivals = self.outside.since(mark)?;
        let (mut took, mut late) = (BTreeMap::new(), Vec::new());
        for tag in tags {
            let arrivals = of(&arrivals, tag);
            let first = arrivals.iter().find(|one| one.by_gateway == by_gateway);
            let first = first.with_context(|| format!("{tag} was not changed by {label}: {arrivals:?}"))?;
            let after = first.at.saturating_sub(changed);
            took.insert((*tag).to_owned(), after);
            let is_late = |one: &&Arrival| one.by_gateway != by_gateway && one.at > changed + SOON_MS;
            late.extend(arrivals.iter().filter(is_late).cloned());
        }
        ensure!(late.is_empty(), "after {label}, in ms: {took:?}; too late: {late:?}");
        Ok(took)
    }

    /// Waits until something of each of `tags` has arrived that way.
    fn wait_for(&self, mark: Mark, tags: &[&str], by_gateway: bool) -> Result<()> {
        let mut missing: BTreeSet<_> = tags.iter().copied().collect();
        let way = if by_gateway { "by a gateway" } else { "directly" };
        wait::until(&format!("what arrives {way}"), START, || {
            for arrival in self.outside.since(mark)? {
                if arrival.by_gateway == by_gateway {
                    missing.remove(&*arrival.tag);
                }
            }
            Ok(missing.is_empty().then_some(()))
        })
        .with_context(|| format!("nothing arrived {way} of {missing:?}"))
    }

    /// What the condition of a pod has to say: status, reason, and a part of its message; none where there is to be no condition.
    fn expect(&self, pod: &str, expected: Option<(&str, &str, &str)>) -> Result<()> {
        let mut last = Value::Null;
        let reached = |found: &Value| {
            last = condition(found).cloned().unwrap_or_default();
            match expected {
                None => last.is_null(),
                Some((status, reason, part)) => {
                    last["status"] == status
                        && last["reason"] == reason
                        && last["message"].as_str().is_some_and(|message| message.contains(part))
                }
            }
        };
        let what = format!("the condition of {pod} to be {expected:?}");
        let waited = self.egret.kube().wait_for(&what, &["pod", pod, "-n", NAMESPACE], START / 4, reached);
        waited.map(drop).with_context(|| format!("it is {last}"))
    }

    /// The containers of the pods that are there from the beginning to the end.
    fn containers(&self) -> Result<BTreeSet<String>> {
        let list = self.egret.kube().get(&["pods", "-n", NAMESPACE])?;
        let pods = list["items"].as_array().into_iter().flatten();
        let statuses = pods.filter(|pod| pod["metadata"]["name"] != "late").flat_map(|pod| {
            let of = |kind: &str| pod["status"][kind].as_array().cloned().unwrap_or_default();
            [of("initContainerStatuses"), of("containerStatuses")].concat()
        });
        Ok(statuses.map(|status| format!("{}={}", status["name"], status["containerID"])).collect())
    }

    /// The same, when the kubelet has told of all of them.
    fn started_containers(&self) -> Result<BTreeSet<String>> {
        wait::until("all containers to have their ids", START, || {
            let all = self.containers()?;
            Ok(all.iter().all(|one| !one.ends_with("null")).then_some(all))
        })
    }
}

/// Removes the static pod's file when dropped.
struct StaticPod<'a>(&'a Installed);

impl Drop for StaticPod<'_> {
    fn drop(&mut self) {
        let node = self.0.cluster().node(NODES[0]);
        let _ = node.and_then(|node| node.run("rm", &["-f", STATIC]));
    }
}

/// A namespace of others that is enrolled while this lives.
struct Labelled<'a>(&'a Installed, &'a str);

impl<'a> Labelled<'a> {
    fn namespace(egret: &'a Installed, name: &'a str) -> Result<Self> {
        let labelled = Self(egret, name);
        labelled.label(&format!("{LABEL}=enabled"))?;
        Ok(labelled)
    }

    fn label(&self, label: &str) -> Result<()> {
        self.0.kube().kubectl(&["label", "namespace", self.1, "--overwrite", label]).map(drop)
    }
}

impl Drop for Labelled<'_> {
    fn drop(&mut self) {
        let _ = self.label(&format!("{LABEL}-"));
    }
}

/// The pods that run from the beginning to the end.
fn running(url: &str) -> Vec<Value> {
    let asks = |tag: &str| container(tag, url, &json!({}));
    let with = |tag: &str, resources: Value| container(tag, url, &json!({ "resources": resources }));
    let init = container("first-init", url, &json!({ "command": once("first-init", url) }));
    let sidecar = container("sidecar", url, &json!({ "restartPolicy": "Always" }));
    let many = json!({ "initContainers": [init, sidecar], "containers": [asks("first"), asks("second")] });
    let small = json!({ "cpu": "10m", "memory": "32Mi" });
    let alone = |container: Value| json!({ "containers": [container] });
    let host = json!({ "hostNetwork": true, "containers": [asks("host")] });
    let labelled = |value: &str| json!({ LABEL: value });
    vec![
        pod("plain", Some(0), &json!({}), &alone(asks("plain"))),
        pod("many", Some(1), &json!({}), &many),
        pod("host", Some(1), &json!({}), &host),
        // Limits, too, would be used up by what starts processes all the time, if they were small.
        pod(
            "guaranteed",
            Some(0),
            &json!({}),
            &alone(with(
                "guaranteed",
                json!({ "limits": { "cpu": "500m", "memory": "64Mi" }, "requests": { "cpu": "500m", "memory": "64Mi" } }),
            )),
        ),
        pod("burstable", Some(1), &json!({}), &alone(with("burstable", json!({ "requests": small })))),
        pod("odd", Some(0), &labelled("on"), &alone(asks("odd"))),
        pod("own-word-on", Some(1), &labelled("enabled"), &alone(asks("own-word-on"))),
        pod("own-word-off", Some(0), &labelled("disabled"), &alone(asks("own-word-off"))),
    ]
}

fn pod(name: &str, node: Option<usize>, labels: &Value, spec: &Value) -> Value {
    let mut whole = json!({ "terminationGracePeriodSeconds": 0 });
    if let (Some(whole), Some(spec)) = (whole.as_object_mut(), spec.as_object()) {
        whole.extend(spec.clone());
        whole.extend(node.map(|node| ("nodeName".to_owned(), json!(NODES[node]))));
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": labels }, "spec": whole })
}

fn within(namespace: &str, pod: &Value) -> Value {
    let mut pod = pod.clone();
    pod["metadata"]["namespace"] = json!(namespace);
    pod
}

/// A container that asks again and again, and `more` of it.
fn container(tag: &str, url: &str, more: &Value) -> Value {
    let mut container = json!({
        "name": tag, "image": "sleep:test", "imagePullPolicy": "Never", "command": again_and_again(tag, url),
    });
    if let (Some(container), Some(more)) = (container.as_object_mut(), more.as_object()) {
        container.extend(more.clone());
    }
    container
}

/// The command of a container that asks again and again, by a new connection each time. One process: nine that start others all the
/// time would keep the machine busy.
fn again_and_again(tag: &str, url: &str) -> Vec<String> {
    let numbered = format!("{url}?[1-1000000]");
    command(
        tag,
        &["-o", "/dev/null", "--max-time", "2", "--rate", RATE, "-H", "connection: close", &numbered],
    )
}

/// The command of a container that asks at once, until it is answered.
fn once(tag: &str, url: &str) -> Vec<String> {
    command(tag, &["--retry", "20", "--retry-all-errors", "--retry-delay", "1", url])
}

fn command(tag: &str, arguments: &[&str]) -> Vec<String> {
    let host = format!("host: {tag}.test");
    let all = [&["curl", "-qs", "-H", &host], arguments].concat();
    all.into_iter().map(str::to_owned).collect()
}

fn of(arrivals: &[Arrival], tag: &str) -> Vec<Arrival> {
    arrivals.iter().filter(|arrival| arrival.tag == tag).cloned().collect()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[expect(clippy::print_stderr, reason = "addressed to whoever runs the tests")]
fn say(text: &str) {
    eprintln!("{text}");
}
