//! The scenario end to end, on the real binaries, the real kernel and a real network.
//!
//! Needs root, and `egret` built: `EGRET_BIN`, else `target/release/egret`. Without root it fails, unless
//! `EGRET_TESTS_ALLOW_SKIP=1` says that it may leave itself out.

mod agent_down;
mod bad_input;
mod binding;
mod credential;
mod dns;
mod exec;
mod flow_bytes;
mod flow_legs;
mod flow_rate;
mod foreign;
mod full;
mod gateway_page;
mod killed;
mod locked;
mod metrics;
mod names;
mod nginx;
mod nothing_left;
mod observed;
mod older;
mod placement;
mod plaintext;
mod repair;
mod soak;
mod take_over;
mod terminal;
mod top;
mod traffic;
mod ui;
mod walk;

use std::{
    env,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::Result;
use egret_tests::{
    egret::{binary, workspace},
    netns::Namespace,
    privileges,
    scenario::{Outcome, Places, World},
};
use tempfile::TempDir;

/// A world of one test's own. The directory goes last.
struct Rig {
    world: World,
    directory: TempDir,
}

impl Rig {
    /// Everything started; nothing when the test has to be left out.
    fn start() -> Result<Option<Self>> {
        Self::start_with_gateway(Ipv4Addr::LOCALHOST)
    }

    /// The same with the gateway on another address of this machine.
    fn start_with_gateway(gateway: Ipv4Addr) -> Result<Option<Self>> {
        Self::start_with(binary()?, gateway)
    }

    /// The same with the product at another place.
    fn start_with(egret: PathBuf, gateway: Ipv4Addr) -> Result<Option<Self>> {
        if !privileges::kernel_or_skip("the scenario") {
            return Ok(None);
        }
        let directory = TempDir::with_prefix_in("egret-test-", "/run")?;
        let places = Places {
            egret,
            external: PathBuf::from(env!("CARGO_BIN_EXE_egret-external")),
            steps: workspace().join("deploy/demo"),
            work: directory.path().join("files"),
            run: directory.path().join("run"),
        };
        let world = World::start_with_gateway(places, namespace()?, gateway)?;
        Ok(Some(Self { world, directory }))
    }

    /// Like [`Rig::start`], with the configuration as it is after a directory of the demo.
    fn configured(directory: &str) -> Result<Option<Self>> {
        let mut rig = Self::start()?;
        if let Some(rig) = &mut rig {
            rig.world.configure_up_to(directory)?;
        }
        Ok(rig)
    }
}

/// A network namespace with a link to the host.
fn namespace() -> Result<Namespace> {
    Namespace::create("egt", Path::new("/run/lock/egret-tests"))
}

/// A text that occurs nowhere else.
fn marker(name: &str) -> String {
    let nanoseconds = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    format!("egret-{name}-{}-{nanoseconds}", std::process::id())
}

/// Whether a line of the gateway's access log is about a tunnel from this address.
fn passed_by(line: &serde_json::Value, address: &str) -> bool {
    let from = line["downstream_remote_address"].as_str().unwrap_or_default();
    from.strip_prefix(address).is_some_and(|port| port.starts_with(':'))
}

/// Fails with everything a person needs to understand an outcome that was not expected.
#[track_caller]
fn passed(title: &str, outcome: &Outcome) {
    assert!(
        outcome.failures.is_empty(),
        "{title}\n$ {}\n{}\n{}\ngateway: {:#?}\nexternal: {:#?}",
        outcome.command,
        outcome.answer.summary(),
        outcome.failures.join("\n"),
        outcome.gateway,
        outcome.external,
    );
}
