//! How a step and its proof look.

use anyhow::Result;
use egret_tests::scenario::{Outcome, Step, World};
use serde_json::Value;

use crate::terminal::Terminal;

/// Longest body that is shown, in lines.
const BODY_LINES: usize = 10;
/// Fields of the gateway's access log that every step shows; those that a step checks come after.
const GATEWAY_FIELDS: [&str; 4] = ["response_code", "upstream_cluster", "upstream_host", "principal"];
/// The same for the external service's log.
const EXTERNAL_FIELDS: [&str; 5] = ["peer", "tls", "client", "method", "path"];

/// A step's changes, command, answer, evidence and verdict.
pub(crate) fn outcome(terminal: &mut Terminal, step: &Step, outcome: &Outcome) -> Result<()> {
    let secret = step.secret.then_some("Secret istio-system/test.client");
    for file in secret.iter().chain(step.apply) {
        terminal.evidence("apply", file)?;
    }
    terminal.command(&outcome.command)?;
    let head = outcome.answer.head.lines().next().unwrap_or_default();
    if outcome.answer.status.is_some() {
        terminal.block(head)?;
    } else {
        terminal.block(&outcome.answer.summary())?;
    }
    let body = outcome.answer.body.lines().collect::<Vec<_>>();
    terminal.block(&body.iter().take(BODY_LINES).copied().collect::<Vec<_>>().join("\n"))?;
    if body.len() > BODY_LINES {
        terminal.block(&format!("… {} more lines", body.len() - BODY_LINES))?;
    }
    let checked = |fields: Option<&'static [egret_tests::scenario::Field]>| {
        fields.unwrap_or_default().iter().map(|field| field.name())
    };
    let gateway = GATEWAY_FIELDS.into_iter().chain(checked(step.expect.gateway));
    lines(terminal, "gateway", &outcome.gateway, &gateway.collect::<Vec<_>>())?;
    let external = EXTERNAL_FIELDS.into_iter().chain(checked(step.expect.external));
    lines(terminal, "far side", &outcome.external, &external.collect::<Vec<_>>())?;
    if outcome.failures.is_empty() {
        terminal.good("as it should be")
    } else {
        terminal.bad(&outcome.failures.join("\n"))
    }
}

/// What `egret explain` says about the request that the policy denies.
pub(super) fn explanation(terminal: &mut Terminal, world: &World) -> Result<()> {
    terminal.section("Why was /headers denied? egret explain asks the same code as the gateway")?;
    let arguments = ["--from", "default/sleep", "GET", "http://test.com/headers"];
    terminal.command(&format!(
        "egret explain -f {} {}",
        world.config.path().display(),
        arguments.join(" ")
    ))?;
    let text = world.explain("GET", "http://test.com/headers")?;
    terminal.block(&text)
}

/// Log lines, reduced to `names` that have a value.
fn lines(terminal: &mut Terminal, label: &str, lines: &[Value], names: &[&str]) -> Result<()> {
    if lines.is_empty() {
        return terminal.evidence(label, "saw nothing of it");
    }
    for line in lines {
        let mut shown = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let value = &line[*name];
            if !value.is_null() && !names[..index].contains(name) {
                shown.push(format!(
                    "{name}={}",
                    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
                ));
            }
        }
        terminal.evidence(label, &shown.join("  "))?;
    }
    Ok(())
}
