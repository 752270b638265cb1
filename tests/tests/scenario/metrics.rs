//! What `egret up` exposes to a Prometheus: it can be read, it is the page of all roles, and it counts right.

use std::{
    env,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use egret_tests::{
    curl,
    egret::{Part, workspace},
    wait,
};

use crate::Rig;

const PATIENCE: Duration = Duration::from_secs(10);

/// `promtool` of PATH, or the one that `cargo xtask test` unpacked.
fn promtool() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|directory| directory.join("promtool"))
        .chain([workspace().join("target/tools/prometheus/usr/bin/promtool")])
        .find(|program| program.is_file())
        .context("no promtool: run `cargo xtask observability`, which unpacks one, or install Debian's package prometheus")
}

/// The one thing that it has to say: about a name that is Istio's.
const OF_ISTIO: &str =
    "istio_request_duration_milliseconds use base unit \"seconds\" instead of \"milliseconds\"";

/// Fails with what it says about a page, warnings included.
fn check(page: &str) -> Result<()> {
    let mut command = Command::new(promtool()?);
    let mut child = command
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("no input")?.write_all(page.as_bytes())?;
    let output = child.wait_with_output()?;
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    // 3: it can be read, and there is something to say.
    let readable = matches!(output.status.code(), Some(0 | 3));
    let complaints: Vec<&str> = said.lines().filter(|line| !line.is_empty() && *line != OF_ISTIO).collect();
    ensure!(readable && complaints.is_empty(), "promtool check metrics: {}\n{said}", output.status);
    Ok(())
}

/// The sum of the samples of `name` that have all of `labels`.
fn value(page: &str, name: &str, labels: &[&str]) -> f64 {
    let is_named = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
    };
    let samples =
        page.lines().filter(is_named).filter(|line| labels.iter().all(|label| line.contains(label)));
    samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

#[track_caller]
fn is(page: &str, name: &str, labels: &[&str], expected: u32) {
    let found = value(page, name, labels);
    assert!(
        (found - f64::from(expected)).abs() < 0.1,
        "{name} {labels:?} is {found}, not {expected}\n{page}"
    );
}

#[test]
fn three_allowed_and_two_denied_requests_are_counted() -> Result<()> {
    let Some(rig) = Rig::configured("6-authorization")? else { return Ok(()) };
    let address = rig.world.external.address();
    for (path, status, times) in [("/status/200", 200, 3), ("/headers", 403, 2)] {
        for _ in 0..times {
            let url = format!("http://{address}{path}");
            let answer =
                rig.world.egret.curl("default/sleep", false, &["--header", "host: test.com", &url])?;
            ensure!(answer.status == Some(status), "{path}: {}", answer.summary());
        }
    }
    let url = format!("http://{}/metrics", rig.world.egret.metrics());
    let page = || -> Result<String> {
        let answer = curl::run(&mut curl::command(&[&url]))?;
        ensure!(answer.status == Some(200), "{}", answer.summary());
        ensure!(
            answer.head.to_ascii_lowercase().contains("content-type: text/plain; version=0.0.4"),
            "{}",
            answer.head
        );
        Ok(answer.body)
    };
    // A request is counted with its record, which may be written after the client has its answer.
    let page_then = wait::until("five requests in the metrics", PATIENCE, || {
        let page = page()?;
        Ok((value(&page, "istio_requests_total", &[]) > 4.5).then_some(page))
    })?;
    check(&page_then)?;
    let route = [
        "destination_service=\"test.com\"",
        "source_principal=\"spiffe://cluster.local/ns/default/sa/sleep\"",
    ];
    is(&page_then, "istio_requests_total", &[&route[..], &["response_code=\"200\""]].concat(), 3);
    is(&page_then, "istio_requests_total", &[&route[..], &["response_code=\"403\""]].concat(), 2);
    is(&page_then, "istio_requests_total", &[], 5);
    is(&page_then, "istio_request_duration_milliseconds_count", &[], 5);
    let denied = [
        "verdict=\"denied\"",
        "reason=\"policy_denied\"",
        "object=\"AuthorizationPolicy istio-system/test\"",
        "rule=\"0\"",
    ];
    is(&page_then, "egret_refusals_total", &denied, 2);
    is(&page_then, "egret_agent_connections_total", &[], 5);
    // Probes of the self-check are captured, too.
    assert!(
        value(&page_then, "egret_kernel_decisions_total", &["decision=\"captured\""]) > 4.5,
        "{page_then}"
    );
    is(&page_then, "egret_escaped_total", &[], 0);
    for component in ["agent", "gateway", "ca"] {
        let label = format!("component=\"{component}\"");
        is(&page_then, "egret_role_up", &[&label], 1);
        is(&page_then, "egret_ready", &[&label], 1);
        is(&page_then, "egret_build_info", &[&label], 1);
        // An agent has certificates as long as it has workloads.
        let left = value(&page_then, "egret_certificate_expiry_seconds", &[&label]);
        assert!(left > 3600.0 || component == "agent", "{component}\n{page_then}");
    }
    is(&page_then, "egret_gateway_reachable", &[], 1);

    // Read-only, and nothing else is there.
    for (arguments, status) in
        [(["-X", "POST", url.as_str()], 405), (["-X", "GET", &url.replace("/metrics", "/status")], 404)]
    {
        let answer = curl::run(&mut curl::command(&arguments))?;
        ensure!(answer.status == Some(status), "{arguments:?}: {}", answer.summary());
    }

    // A role that is gone is said to be, and the others go on.
    rig.world.egret.kill(Part::Gateway)?;
    wait::until("the gateway to be missed", PATIENCE, || {
        let page = page()?;
        is(&page, "egret_role_up", &["component=\"agent\""], 1);
        Ok((value(&page, "egret_role_up", &["component=\"gateway\""]) < 0.5).then_some(()))
    })?;
    wait::until("the gateway to be back", PATIENCE, || {
        Ok((value(&page()?, "egret_role_up", &["component=\"gateway\""]) > 0.5).then_some(()))
    })?;
    Ok(())
}
