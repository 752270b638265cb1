//! An update of everything by `helm upgrade`, under load over new connections: no request fails, and none goes out directly.
//!
//! `EGRET_LOAD_RATE` says how many requests a second. The promise is 500, with a release build of the image; what a debug build
//! reaches on two cores is less, and is what is asked for by default.

use std::{collections::BTreeSet, env, time::Duration};

use anyhow::{Context as _, Result, ensure};
use egret_tests::{
    cluster::{
        installed::{Installed, NAMESPACE},
        load::{Load, now},
        plan::NODES,
    },
    external::External,
    wait,
};
use serde_json::Value;
use tempfile::TempDir;

/// What an update of all gateways and agents gets, until the last old one is gone.
const UPDATE: Duration = Duration::from_mins(4);
/// Requests a second, unless told otherwise.
const RATE: u32 = 100;

#[test]
fn an_update_under_load_fails_no_request_and_lets_none_out() -> Result<()> {
    const SPACE: &str = "rolling";
    let Some(egret) = super::installed()? else { return Ok(()) };
    let rate = match env::var("EGRET_LOAD_RATE") {
        Ok(rate) => rate.parse().context("EGRET_LOAD_RATE")?,
        Err(_) => RATE,
    };
    let directory = TempDir::new()?;
    let external = External::start(&super::external_binary(), egret.cluster().internet(), directory.path())?;
    let load = Load::start(&egret, &super::steady_binary(), SPACE, NODES[0], rate)?;
    let mark = external.log().mark();
    let mut gateways = BTreeSet::new();
    // There and back, so that Egret is left as it was found.
    for values in [&["agent.podAnnotations.update=once", "gateway.podAnnotations.update=once"][..], &[]] {
        let from = load.steady()?;
        let old = parts(&egret)?.into_iter().map(|part| part.name).collect::<BTreeSet<_>>();
        egret.upgrade_only(values)?;
        // The escapes that each has counted, as long as it could be asked.
        let mut escaped = Vec::new();
        wait::until("all old agents and gateways to be gone", UPDATE, || {
            let parts = parts(&egret)?;
            for part in &parts {
                if part.agent {
                    // It may just be starting, or ending.
                    let count = egret.egret(&part.name, &["status", "-o", "json"]).ok();
                    let count = count.and_then(|text| escapes(&text));
                    escaped.extend(count.filter(|count| *count > 0).map(|count| (part.name.clone(), count)));
                } else {
                    gateways.extend(part.address.clone());
                }
            }
            Ok((!parts.iter().any(|part| old.contains(&part.name))).then_some(()))
        })?;
        egret.wait_until_ready()?;
        load.steady()?;
        let took = Duration::from_millis(now() - from);
        let seen = load.seen(from)?;
        println!("update under load: {} (in {took:?})", seen.summary(from));
        seen.ensure_none_failed(from)?;
        ensure!(seen.rate() > f64::from(rate) * 0.9, "not {rate} a second: {}", seen.summary(from));
        ensure!(escaped.is_empty(), "{escaped:?}");
    }
    let arrived = external.log().since(mark)?;
    let direct = super::from_others(&arrived, &gateways);
    ensure!(direct.is_empty(), "not from gateways ({gateways:?}), the pod is {}: {direct:?}", load.address());
    load.end()
}

/// A pod of Egret's.
struct Part {
    name: String,
    agent: bool,
    address: Option<String>,
}

/// Agents and gateways that are there, also those that end.
fn parts(egret: &Installed) -> Result<Vec<Part>> {
    let list = egret.kube().get(&["pods", "-n", NAMESPACE])?;
    let pods = list["items"].as_array().into_iter().flatten();
    let parts = pods.filter_map(|pod| {
        let agent = match pod["spec"]["serviceAccountName"].as_str()? {
            "egret-agent" => true,
            "istio-egressgateway" => false,
            _ => return None,
        };
        Some(Part {
            name: pod["metadata"]["name"].as_str()?.to_owned(),
            agent,
            address: pod["status"]["podIP"].as_str().map(str::to_owned),
        })
    });
    Ok(parts.collect())
}

/// What an agent counted, by its status.
fn escapes(status: &str) -> Option<u64> {
    let status: Value = serde_json::from_str(status).ok()?;
    status["agent"]["counters"]["escaped"].as_u64()
}
