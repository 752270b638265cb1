//! Tests on a real Kubernetes of two nodes. Most share one cluster with Egret in it (`installed`); those that need another start their own.
//!
//! Need root, and what `cargo xtask cluster tools` builds. Run by `cargo xtask cluster test`; they are left out of a plain
//! `cargo test`, because they take programs that cargo does not build.

mod bad_input;
mod bypass;
mod calls;
mod chart;
mod cli;
mod configuration;
mod enrolment;
mod events;
mod itself;
mod losses;
mod outside;
mod removal;
mod rights;
mod rolling;
mod scale;
mod scenario;
mod starts;

use std::{
    collections::BTreeSet,
    env,
    path::{Path, PathBuf},
};

use anyhow::Result;
use egret_tests::{
    cluster::{self, Cluster, Options, installed::Installed, tools},
    egret::workspace,
    privileges,
};
use serde_json::Value;

/// The cluster with Egret that most tests share: started by the first of them, used again by later runs, and removed by `cargo xtask
/// cluster test`. `EGRET_CLUSTER` names another than `test`. None where the machine does not allow it, and that is allowed.
fn installed() -> Result<Option<Installed>> {
    let name = env::var("EGRET_CLUSTER").unwrap_or_else(|_| "test".to_owned());
    let chart = workspace().join("deploy/egret");
    if cluster::exists(&name)? {
        return Ok(Some(Installed::attach(Cluster::attach(&name, &tools::Tools::built()?)?, &chart)?));
    }
    let image = workspace().join(format!("target/image/egret-{}.tar", env!("CARGO_PKG_VERSION")));
    if !image.is_file() {
        privileges::skip("Egret in a cluster", "`cargo xtask image` has not written the image");
        return Ok(None);
    }
    let Some(mut cluster) = cluster(&name)? else { return Ok(None) };
    cluster.keep();
    Installed::install(cluster, &chart, &image, &[]).map(Some)
}

/// A cluster of these tests; none where the machine does not allow it, and that is allowed.
fn cluster(name: &str) -> Result<Option<Cluster>> {
    if !privileges::kernel_or_skip("the cluster") {
        return Ok(None);
    }
    let tools = match tools::Tools::built() {
        Ok(tools) => tools,
        Err(error) => {
            privileges::skip("the cluster", format!("{error:#}"));
            return Ok(None);
        }
    };
    let options = Options { name: name.to_owned(), tools, files: tools::files() };
    Cluster::start(&options, &mut |_| Ok(())).map(Some)
}

/// The external service.
fn external_binary() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_egret-external")).to_owned()
}

/// The program of the load.
fn steady_binary() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_steady")).to_owned()
}

/// Who asked the external service, by a line of its log.
fn peer(line: &Value) -> Option<&str> {
    Some(line["peer"].as_str()?.rsplit_once(':')?.0)
}

/// The lines of its log that are none of these addresses'.
fn from_others<'a>(lines: &'a [Value], addresses: &BTreeSet<String>) -> Vec<&'a Value> {
    lines.iter().filter(|line| !peer(line).is_some_and(|peer| addresses.contains(peer))).collect()
}
