//! The scenario: from a direct call to mutual TLS with authorization, step by step, on real processes.
//!
//! `cargo xtask demo` and `cargo xtask cluster demo` show it, the end-to-end and the cluster test assert it; all run these same
//! steps. What a step proves is read from the gateway's access log and from the external service's own log, not from curl alone.
//! Here is what all share, and the scenario on one machine; [`on_cluster`] is the other place.

mod check;
pub mod on_cluster;
mod stage;
mod steps;

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

pub use self::{
    check::Field,
    on_cluster::OnCluster,
    stage::{Stage, run},
    steps::{OUTSIDE, STEPS},
};
use crate::{
    config::{self, Config},
    curl::{self, Answer},
    egret::Egret,
    external::External,
    json_log::Mark,
    netns::Namespace,
};

/// Whose log tells what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The gateway's access log.
    Gateway,
    /// The external service's own.
    External,
}

impl Side {
    /// As sentences call it.
    fn name(self) -> &'static str {
        match self {
            Self::Gateway => "the gateway's access log",
            Self::External => "the external service's log",
        }
    }
}

/// Who makes the request of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A workload: in the host's network namespace, or a pod.
    Workload(&'static str),
    /// A workload in a network namespace of its own, which has only loopback.
    Isolated(&'static str),
    /// A process or a pod that is no workload.
    Host,
}

/// One step.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What it shows.
    pub title: &'static str,
    /// Files of the demo configuration put in force first, in this order; each is waited for.
    pub apply: &'static [&'static str],
    /// Whether the Secret is written, before the files.
    pub secret: bool,
    /// Who calls.
    pub origin: Origin,
    /// Arguments of curl; `{address}` is the external service's.
    pub curl: &'static [&'static str],
    /// What has to come back, and what both sides have to have seen.
    pub expect: Expect,
}

/// What a step has to give.
#[derive(Clone, Copy, Debug)]
pub struct Expect {
    /// Status of the answer.
    pub status: u16,
    /// What its body has in it.
    pub body: &'static str,
    /// Fields of the one line in the gateway's access log; absent: no line.
    pub gateway: Option<&'static [Field]>,
    /// Fields of the one line in the external service's log; absent: it saw nothing.
    pub external: Option<&'static [Field]>,
}

/// What happened in a step.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The command, as one would type it.
    pub command: String,
    /// curl's answer.
    pub answer: Answer,
    /// Lines of the gateway's access log.
    pub gateway: Vec<Value>,
    /// Lines of the external service's log.
    pub external: Vec<Value>,
    /// What was expected and what was seen instead; empty when the step passed.
    pub failures: Vec<String>,
}

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Places {
    /// The `egret` binary.
    pub egret: PathBuf,
    /// The `egret-external` binary.
    pub external: PathBuf,
    /// The files of the steps: `deploy/demo`.
    pub steps: PathBuf,
    /// For configuration, certificates and logs; created.
    pub work: PathBuf,
    /// For `egret up`; created.
    pub run: PathBuf,
}

/// The product, the external service and the configuration. Dropping it ends the product first.
pub struct World {
    /// The product.
    pub egret: Egret,
    /// The configuration it reads.
    pub config: Config,
    /// The outside.
    pub external: External,
    places: Places,
    /// Steps whose configuration is in force by [`World::configure_up_to`].
    configured: usize,
    /// Lines the gateway's log should have, by the steps run so far.
    gateway_lines: usize,
}

impl World {
    /// Starts the external service in `namespace`, then Egret, with `ALLOW_ANY` and nothing registered.
    pub fn start(places: Places, namespace: Namespace) -> Result<Self> {
        Self::start_with_gateway(places, namespace, Ipv4Addr::LOCALHOST)
    }

    /// The same with the gateway on another address of this machine.
    pub fn start_with_gateway(places: Places, namespace: Namespace, gateway: Ipv4Addr) -> Result<Self> {
        let external = External::start(&places.external, namespace, &places.work.join("external"))?;
        let config = Config::create(&places.work.join("config"), &places.steps, &external)?;
        config.apply("1-allow-any/mesh.yaml")?;
        let egret = Egret::up(&places.egret, config.path(), &places.run, gateway)?;
        Ok(Self { egret, config, external, places, configured: 0, gateway_lines: 0 })
    }

    /// Starts Egret again after its supervisor was killed: on the same configuration and run directory.
    pub fn restart(&mut self) -> Result<()> {
        self.egret.up_again(self.config.path())
    }

    /// Brings the configuration to where it is after `directory` of the demo, such as `5-mutual-tls`.
    pub fn configure_up_to(&mut self, directory: &str) -> Result<()> {
        let has = |step: &Step| step.apply.iter().any(|file| Path::new(file).starts_with(directory));
        let last = STEPS.iter().position(has);
        let Some(last) = last else { bail!("no step has files in {directory}") };
        for step in &STEPS[self.configured..=last] {
            stage::configure(self, step)?;
        }
        self.configured = last + 1;
        Ok(())
    }

    /// Runs a step: configuration, request, and what was logged because of it.
    pub fn run(&mut self, step: &Step) -> Result<Outcome> {
        let outcome = run(self, step)?;
        self.gateway_lines += usize::from(step.expect.gateway.is_some());
        Ok(outcome)
    }

    /// Ends Egret as Ctrl-C does, then the rest.
    pub fn stop(self) -> Result<()> {
        self.egret.interrupt()
    }

    /// Whether the gateway logged exactly the requests that the steps sent through it: a line that came late, after its
    /// step had been judged, shows here.
    pub fn gateway_lines_are_complete(&self) -> Result<bool> {
        Ok(self.egret.access_log().since(Mark::default())?.len() == self.gateway_lines)
    }

    /// `egret explain` for a request of `default/sleep`.
    pub fn explain(&self, method: &str, url: &str) -> Result<String> {
        let output = Command::new(&self.places.egret)
            .arg("explain")
            .arg("-f")
            .arg(self.config.path())
            .args(["--from", "default/sleep", method, url])
            .output()
            .context("cannot run egret explain")?;
        if output.stdout.is_empty() {
            bail!("egret explain ({}) said only: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The command of a step as one would type it, without the options that are only for us.
    fn shown(&self, origin: Origin, arguments: &[&str]) -> String {
        let curl = format!("curl -i {}", arguments.join(" "));
        let run_dir = self.places.run.display();
        match origin {
            Origin::Workload(name) => format!("egret exec --run-dir {run_dir} {name} -- {curl}"),
            Origin::Isolated(name) => format!("egret exec --run-dir {run_dir} --netns {name} -- {curl}"),
            Origin::Host => curl,
        }
    }
}

impl Stage for World {
    type Mark = (Mark, Mark);

    fn apply(&self, file: &str) -> Result<()> {
        self.egret.reconfigure(|| self.config.apply(file))
    }

    fn write_secret(&self) -> Result<()> {
        self.egret.reconfigure(|| self.config.write_secret(&self.external, config::GOOD))
    }

    fn curl(&self, origin: Origin, arguments: &[&str]) -> Result<(String, Answer)> {
        let answer = match origin {
            Origin::Workload(name) => self.egret.curl(name, false, arguments)?,
            Origin::Isolated(name) => self.egret.curl(name, true, arguments)?,
            Origin::Host => curl::run(&mut curl::command(arguments))?,
        };
        Ok((self.shown(origin, arguments), answer))
    }

    fn address(&self) -> String {
        self.external.address().to_string()
    }

    fn mark(&self) -> Result<Self::Mark> {
        Ok((self.egret.access_log().mark(), self.external.log().mark()))
    }

    fn since(&self, side: Side, mark: &Self::Mark) -> Result<Vec<Value>> {
        match side {
            Side::Gateway => self.egret.access_log().since(mark.0),
            Side::External => self.external.log().since(mark.1),
        }
    }
}
