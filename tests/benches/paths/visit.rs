//! A visit of a path: its processes are started, measured and ended. What was measured: one number per name.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    path::{Ground, Path, Running},
    plan::{Effort, Phase},
};

/// Figures by name, the unit at the end of it.
pub(crate) type Figures = BTreeMap<String, f64>;

/// Requests, or connections, to which processor time is related.
const PER: f64 = 10_000.0;
const MIB: f64 = 1024.0 * 1024.0;
const GIB: f64 = 1024.0 * MIB;

/// Visits a path, for these phases. Memory first, by processes that have done nothing before; then the rest, by others.
pub(crate) fn visit(path: Path, ground: &Ground, effort: Effort, phases: Vec<Phase>) -> Result<Figures> {
    let mut figures = Figures::new();
    let (memory, load): (Vec<Phase>, Vec<Phase>) =
        phases.into_iter().partition(|phase| *phase == Phase::Memory);
    for phases in [memory, load].into_iter().filter(|phases| !phases.is_empty()) {
        let mut running = Running::start(path, ground)?;
        for phase in phases {
            let measured = measure(&running, phase, effort, &mut figures);
            measured.with_context(|| phase.name()).map_err(|error| running.explained(error))?;
        }
        running.stop()?;
    }
    Ok(figures)
}

fn measure(running: &Running, phase: Phase, effort: Effort, figures: &mut Figures) -> Result<()> {
    let (warm_up, window) = effort.times(phase);
    let (warm_up, window) = (warm_up.as_millis().to_string(), window.as_millis().to_string());
    let times = ["--warm-up", &warm_up, "--window", &window];
    let load = |arguments: &[&str]| running.load(&[&times, arguments].concat());
    let mut set = |name: &str, value: f64| {
        // Without proxies there is no processor time to tell of.
        if running.has_proxies() || !name.contains("cpu_s") {
            figures.insert(name.to_owned(), value);
        }
    };
    match phase {
        Phase::Closed(connections) => {
            let report = load(&["--kind", "closed", "--connections", &connections.to_string()])?;
            set(&format!("requests_per_s_at_{connections}"), rate(&report)?);
            set(&format!("p50_ms_at_{connections}"), number(&report, "/latency/p50_ms")?);
            set(&format!("p99_ms_at_{connections}"), number(&report, "/latency/p99_ms")?);
            for kind in ["total", "user", "system"] {
                let suffix = if kind == "total" { String::new() } else { format!("_{kind}") };
                set(&format!("cpu_s_per_10k_requests_at_{connections}{suffix}"), cpu(&report, kind, PER)?);
            }
        }
        Phase::Open => {
            let report = load(&["--kind", "open", "--connections", "32", "--rate", "1000"])?;
            set("p50_ms_at_1000_rps", number(&report, "/latency/p50_ms")?);
            set("p99_ms_at_1000_rps", number(&report, "/latency/p99_ms")?);
            set("cpu_s_per_10k_requests_at_1000_rps", cpu(&report, "total", PER)?);
        }
        Phase::Fresh => {
            let report = load(&["--kind", "fresh", "--connections", "16"])?;
            set("new_connections_per_s", rate(&report)?);
            set("new_connection_p99_ms", number(&report, "/latency/p99_ms")?);
            set("cpu_s_per_10k_new_connections", cpu(&report, "total", PER)?);
        }
        Phase::Bulk => {
            for direction in ["down", "up"] {
                let report = load(&["--kind", direction])?;
                set(&format!("{direction}_mib_per_s"), rate(&report)? / MIB);
                set(&format!("{direction}_cpu_s_per_gib"), cpu(&report, "total", GIB)?);
            }
        }
        Phase::Memory => {
            let report = load(&["--kind", "idle", "--flows", effort.idle_flows()])?;
            for level in report["levels"].as_array().into_iter().flatten() {
                let flows = number(level, "/flows")?;
                set(&format!("rss_mib_at_{flows}_flows"), number(level, "/rss_mib")?);
                set(&format!("pss_mib_at_{flows}_flows"), number(level, "/pss_mib")?);
            }
        }
    }
    Ok(())
}

fn rate(report: &Value) -> Result<f64> {
    Ok(number(report, "/count")? / number(report, "/seconds")?)
}

/// Processor seconds per so many.
fn cpu(report: &Value, kind: &str, per: f64) -> Result<f64> {
    Ok(number(report, &format!("/cpu_seconds/{kind}"))? / number(report, "/count")? * per)
}

fn number(report: &Value, pointer: &str) -> Result<f64> {
    let number = report.pointer(pointer).and_then(Value::as_f64);
    number.with_context(|| format!("no {pointer} in the client's report {report}"))
}
