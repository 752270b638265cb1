//! The benchmark's world: the external service in a namespace, and instances of Egret with a workload each.

use std::{
    env,
    fs::OpenOptions,
    io::{BufRead as _, BufReader, Write as _},
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use egret_tests::{
    config::Config,
    egret::{Egret, binary, workspace},
    external::External,
    netns::Namespace,
};
use tempfile::TempDir;

use crate::{cpu, drive::Load, report::Sample};

/// As in the scenario, up to where requests are authorized and pass the egress gateway, and leave in plain text: what is cheap to forward.
const CONFIGURATION: [&str; 5] = [
    "2-registry-only/mesh.yaml",
    "3-service-entry/service-entry.yaml",
    "4-egress-gateway/gateway.yaml",
    "4-egress-gateway/virtual-service.yaml",
    "6-authorization/authorization-policy.yaml",
];

/// What all instances share. The directory goes last.
pub(crate) struct Rig {
    config: Config,
    external: External,
    directory: TempDir,
}

impl Rig {
    pub(crate) fn new() -> Result<Self> {
        let directory = TempDir::with_prefix_in("egret-bench-", "/run")?;
        let namespace = Namespace::create("egb", &env::temp_dir().join("egret-bench"))?;
        let service = PathBuf::from(env!("CARGO_BIN_EXE_egret-external"));
        let external = External::start(&service, namespace, &directory.path().join("external"))?;
        let steps = workspace().join("deploy/demo");
        let config = Config::create(&directory.path().join("config"), &steps, &external)?;
        for file in CONFIGURATION {
            config.apply(file)?;
        }
        Ok(Self { config, external, directory })
    }

    /// Starts an instance, and a workload in it.
    pub(crate) fn start(&self, name: &str, arguments: &[&str]) -> Result<Instance> {
        let run_dir = self.directory.path().join(name);
        let egret = Egret::up_with(&binary()?, self.config.path(), &run_dir, Ipv4Addr::LOCALHOST, arguments)?;
        let mut workload = egret
            .exec("default/sleep", false)
            .arg(env::current_exe()?)
            .arg("--drive")
            .arg(format!("{}:80", self.external.address()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run egret exec")?;
        let pipes = workload.stdin.take().zip(workload.stdout.take());
        let (told, says) = pipes.context("the workload has no pipes")?;
        Ok(Instance { told: Some(told), says: BufReader::new(says), workload, egret })
    }

    /// Empties the logs: they have a line for every request.
    pub(crate) fn forget(&self, instances: &[&Instance]) -> Result<()> {
        let access_logs =
            instances.iter().map(|instance| instance.egret.run_dir().join("gateway-access.log"));
        for log in access_logs.chain([self.external.file("requests.log")]) {
            let truncated = OpenOptions::new().write(true).truncate(true).open(&log);
            truncated.with_context(|| format!("cannot empty {}", log.display()))?;
        }
        Ok(())
    }
}

/// An instance of Egret, and its workload. Dropping it ends the workload first.
pub(crate) struct Instance {
    told: Option<ChildStdin>,
    says: BufReader<ChildStdout>,
    workload: Child,
    egret: Egret,
}

impl Instance {
    /// Makes load for so long.
    pub(crate) fn measure(&mut self, load: Load, time: Duration) -> Result<Sample> {
        let ready = self.tell(&format!("{} {}", load.name(), time.as_millis()))?;
        ensure!(ready == "ready", "the workload said {ready:?}");
        let before = cpu::time(&self.egret)?;
        let requests = self.tell("go")?.parse()?;
        let cpu = cpu::time(&self.egret)?.saturating_sub(before);
        ensure!(requests > 0, "not one request in {time:?}");
        Ok(Sample { requests, cpu })
    }

    fn tell(&mut self, line: &str) -> Result<String> {
        let told = self.told.as_mut().context("the workload is ending")?;
        writeln!(told, "{line}").context("the workload has ended")?;
        let mut answer = String::new();
        self.says.read_line(&mut answer)?;
        ensure!(!answer.is_empty(), "the workload ended; what it said is above");
        Ok(answer.trim_end().to_owned())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // It ends when nobody tells it anything any more; should it not, Egret ends it.
        self.told = None;
        let _ = self.workload.wait();
    }
}
