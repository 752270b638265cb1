//! `egret verify-bypass` in pods, with a witness outside of the cluster: nothing gets out of an enrolled one, and everything that its
//! capabilities allow out of one that is not.
//!
//! What hands in sockets from elsewhere is not tried here, but on one machine (`tests/bypass`): pods do not share what that takes.

use std::{collections::BTreeMap, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use egret_tests::{
    cluster::{
        installed::{Caller, Installed},
        plan::{EXTERNAL, NODES},
    },
    egret::binary,
    process::Process,
};
use serde_json::{Value, json};

/// Port of the witness.
const WITNESS: u16 = 8080;
/// Enrolled, and not.
const NAMESPACES: [(&str, bool); 2] = [("bypass", true), ("bypass-free", false)];

/// What reaches the witness by the gateway, whoever asks.
const CAPTURED: [&str; 3] = ["tcp connect", "tcp v4-mapped", "tcp non-blocking connect"];
/// What routers drop.
const NOT_FORWARDED: [&str; 2] = ["tcp source route", "udp source route"];

/// What a pod may do.
struct Pod {
    name: &'static str,
    security: fn() -> Value,
    /// What gets out at least, where the pod is not enrolled.
    free: &'static [&'static str],
}

const PODS: [Pod; 3] = [
    Pod {
        name: "as-it-is",
        security: || json!({}),
        free: &["tcp connect", "udp sendto", "quic (udp 443)", "dns to a foreign resolver"],
    },
    Pod {
        name: "root",
        security: || json!({ "runAsUser": 0 }),
        free: &[
            "tcp connect",
            "udp sendto",
            "other uid",
            "raw icmp",
            "raw packet, header included",
            "af_packet",
        ],
    },
    Pod {
        name: "privileged",
        security: || json!({ "runAsUser": 0, "privileged": true }),
        free: &[
            "tcp connect",
            "tcp SO_MARK",
            "tcp repair",
            "af_packet",
            "nested network namespace",
            "vxlan device of the node",
        ],
    },
];

#[test]
fn nothing_gets_out_of_an_enrolled_pod() -> Result<()> {
    let Some(egret) = super::installed()? else { return Ok(()) };
    let witness = format!("{EXTERNAL}:{WITNESS}");
    let mut command = egret.cluster().internet().command(&binary()?);
    command.args(["verify-bypass", "--witness", &format!("0.0.0.0:{WITNESS}")]).stdout(Stdio::null());
    let _witness = Process::spawn("the witness", &mut command)?;
    for (namespace, enrolled) in NAMESPACES {
        egret.namespace(namespace, enrolled)?;
        for (index, pod) in PODS.iter().enumerate() {
            start(&egret, namespace, enrolled, pod, NODES[index % 2])?;
            let battery = battery(&egret, namespace, pod.name, &witness)?;
            show(&format!("{namespace}/{}", pod.name), &battery);
            let judged = if enrolled { holds(&battery) } else { gets_out(&battery, pod) };
            judged.with_context(|| format!("{namespace}/{}", pod.name))?;
        }
    }
    NAMESPACES.into_iter().try_for_each(|(namespace, _)| egret.remove_namespace(namespace))
}

/// Verdict and what was seen, by vector.
type Battery = BTreeMap<String, (String, String)>;

fn with<'a>(battery: &'a Battery, verdict: &str) -> Vec<&'a str> {
    let found = battery.iter().filter(|(_, (found, _))| found == verdict);
    found.map(|(vector, _)| vector.as_str()).collect()
}

fn holds(battery: &Battery) -> Result<()> {
    let escaped = with(battery, "escaped");
    ensure!(escaped.is_empty(), "{escaped:?} got out");
    ensure!(with(battery, "unproven").is_empty(), "unproven: {:?}", with(battery, "unproven"));
    ensure!(with(battery, "held").len() >= 15, "only {:?} could be tried", with(battery, "held"));
    for vector in CAPTURED {
        let (_, seen) = battery.get(vector).with_context(|| format!("no vector {vector}"))?;
        ensure!(seen.starts_with("captured: the witness talked to"), "{vector}: {seen}");
    }
    Ok(())
}

fn gets_out(battery: &Battery, pod: &Pod) -> Result<()> {
    let escaped = with(battery, "escaped");
    let missing: Vec<_> = pod.free.iter().filter(|vector| !escaped.contains(*vector)).collect();
    ensure!(missing.is_empty(), "{missing:?} did not get out");
    // Nothing holds it, so nothing is held.
    let held = with(battery, "held").into_iter().filter(|vector| !NOT_FORWARDED.contains(vector));
    let held: Vec<_> = held.collect();
    ensure!(held.is_empty(), "{held:?} did not get out");
    Ok(())
}

fn start(egret: &Installed, namespace: &str, enrolled: bool, pod: &Pod, node: &str) -> Result<()> {
    let image = format!("egret:{}", env!("CARGO_PKG_VERSION"));
    // Something that runs until it is told to end: the image has no shell.
    let container = json!({
        "name": "egret", "image": image, "imagePullPolicy": "Never",
        "command": ["/egret", "verify-bypass", "--hand-out", "/tmp/none"], "securityContext": (pod.security)(),
    });
    let spec = json!({ "containers": [container] });
    let caller = Caller { namespace, name: pod.name, node: Some(node), labels: &[], spec };
    if enrolled { egret.start_captured(&caller) } else { egret.start(&caller) }
}

fn battery(egret: &Installed, namespace: &str, pod: &str, witness: &str) -> Result<Battery> {
    let command = ["/egret", "verify-bypass", "-o", "json", "--target", witness];
    let output = egret.exec(namespace, pod, &command).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the battery gave no JSON ({}): {said}", output.status))?;
    ensure!(report["watched"] == true, "no witness: {}", report["unwatched_because"]);
    let text = |outcome: &Value, field: &str| outcome[field].as_str().unwrap_or_default().to_owned();
    let outcomes = report["outcomes"].as_array().context("no outcomes")?;
    Ok(outcomes
        .iter()
        .map(|outcome| (text(outcome, "vector"), (text(outcome, "verdict"), text(outcome, "seen"))))
        .collect())
}

#[expect(clippy::print_stderr, reason = "addressed to whoever runs the tests")]
fn show(pod: &str, battery: &Battery) {
    eprintln!("{pod}:");
    for (vector, (verdict, seen)) in battery {
        eprintln!("  {vector:<36}{verdict:<15}{seen}");
    }
}
