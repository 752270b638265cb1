//! Traffic while Egret's processes come and go: an enrolled workload's, and that of a process that is none.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use egret_tests::{json_log::Mark, process::Process, scenario::World, wait};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_mins(1);

/// A running client.
pub(crate) struct Client {
    report: PathBuf,
    until: PathBuf,
    process: Process,
}

impl Client {
    /// As the workload `default/sleep`.
    pub(crate) fn workload(world: &World) -> Result<Self> {
        Self::start(world, "inside", world.egret.exec("default/sleep", false))
    }

    /// As a process that is no workload: it goes directly, to `/outside`.
    pub(crate) fn outside(world: &World) -> Result<Self> {
        Self::start(world, "outside", Command::new("env"))
    }

    fn start(world: &World, name: &str, mut command: Command) -> Result<Self> {
        let file = |what: &str| world.external.file(&format!("{name}-{what}"));
        let (report, until) = (file("report"), file("until"));
        command
            .arg(env!("CARGO_BIN_EXE_egret-external"))
            .args(["load", "--address", &format!("{}:80", world.external.address())])
            .args(["--host", "test.com", "--path", &format!("/anything/{name}")])
            .arg("--until")
            .arg(&until)
            .arg("--report")
            .arg(&report);
        let client = Self { report, until, process: Process::spawn(name, &mut command)? };
        let path = format!("/anything/{name}");
        wait::until("the first requests", PATIENCE, || {
            let lines = world.external.log().since(Mark::default())?;
            Ok((lines.iter().filter(|line| line["path"] == *path).count() > 5).then_some(()))
        })?;
        Ok(client)
    }

    /// Failed requests so far, a line each.
    pub(crate) fn failures(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.report).unwrap_or_default();
        text.lines().filter(|line| line.starts_with("failed")).map(str::to_owned).collect()
    }

    /// Ends it; how many requests succeeded.
    pub(crate) fn end(mut self) -> Result<u64> {
        fs::write(&self.until, "")?;
        self.process.wait(PATIENCE)?;
        let text = fs::read_to_string(&self.report)?;
        let done = text.lines().find_map(|line| line.strip_prefix("done ")).context("no report")?;
        Ok(done.parse()?)
    }
}

/// What arrived outside and did not come by the gateway: only the gateway has the key for the TLS port.
pub(crate) fn escapes(world: &World) -> Result<Vec<Value>> {
    let mut lines = world.external.log().since(Mark::default())?;
    lines.retain(|line| {
        let regular = line["event"] == "request" && line["tls"] == true && line["client"] == "test.client";
        !regular && line["path"] != "/anything/outside"
    });
    Ok(lines)
}
