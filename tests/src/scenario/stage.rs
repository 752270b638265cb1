//! What the scenario needs of the place where it is walked, and the walk itself: the same for one machine ([`super::World`]) and for a
//! cluster ([`super::OnCluster`]).

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Origin, Outcome, Side, Step, check};
use crate::curl::Answer;

/// A place where Egret runs and the external service is reached.
pub trait Stage {
    /// How far both logs had come.
    type Mark;

    /// Puts a file of the demo's configuration in force, and waits until it is.
    fn apply(&self, file: &str) -> Result<()>;

    /// The same with the Secret `istio-system/test.client`, whose certificate the external service trusts.
    fn write_secret(&self) -> Result<()>;

    /// Calls out with curl: the command, as one would type it, and what came back.
    fn curl(&self, origin: Origin, arguments: &[&str]) -> Result<(String, Answer)>;

    /// The address of the external service.
    fn address(&self) -> String;

    /// How far both logs have come.
    fn mark(&self) -> Result<Self::Mark>;

    /// What a log has since then.
    fn since(&self, side: Side, mark: &Self::Mark) -> Result<Vec<Value>>;
}

/// Puts what a step needs in force.
pub(super) fn configure(stage: &impl Stage, step: &Step) -> Result<()> {
    if step.secret {
        stage.write_secret().context("writing the Secret test.client")?;
    }
    step.apply.iter().try_for_each(|file| stage.apply(file).with_context(|| format!("applying {file}")))
}

/// Runs a step: configuration, request, and what was logged because of it.
pub fn run(stage: &impl Stage, step: &Step) -> Result<Outcome> {
    configure(stage, step)?;
    let address = stage.address();
    let arguments = step.curl.iter().map(|text| text.replace("{address}", &address)).collect::<Vec<_>>();
    let arguments = arguments.iter().map(String::as_str).collect::<Vec<_>>();
    let mark = stage.mark()?;
    let (command, answer) = stage.curl(step.origin, &arguments)?;
    let mut failures = Vec::new();
    check::answer(&step.expect, &answer, &mut failures);
    let mut judge = |side: Side, expect| {
        check::log(side.name(), || stage.since(side, &mark), expect, &address, &mut failures)
    };
    let gateway = judge(Side::Gateway, step.expect.gateway)?;
    let external = judge(Side::External, step.expect.external)?;
    Ok(Outcome { command, answer, gateway, external, failures })
}
