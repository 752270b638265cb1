//! `egret verify-bypass`: the battery (inside a workload), its witness and its helper (outside).

use std::process::ExitCode;

use anyhow::Context as _;

use super::{
    args::{Format, VerifyBypass},
    output,
};
use crate::verify_bypass::{self, Report, Verdict, witness};

/// Runs one of the three; the battery fails when something got out.
pub(super) fn run(arguments: &VerifyBypass) -> anyhow::Result<ExitCode> {
    if let Some(address) = arguments.witness {
        let runtime = super::current_thread()?;
        runtime.block_on(witness::run(address, |at| say(&format!("witness at {at}"))))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &arguments.hand_out {
        verify_bypass::hand_out(path, || say(&format!("handing out sockets at {}", path.display())))
            .with_context(|| path.display().to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let context = arguments.context();
    if let Some(name) = &arguments.single {
        let attempt = verify_bypass::single(&context, name).with_context(|| format!("no vector {name:?}"))?;
        output::json(&attempt)?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = verify_bypass::run(&context);
    match arguments.output.format {
        Format::Json => output::json(&report)?,
        Format::Table => output::text(human(&report))?,
    }
    Ok(if report.count(Verdict::Escaped) > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// For whoever started it and waits. Nobody reading is no failure.
fn say(text: &str) {
    drop(output::text(text));
}

fn human(report: &Report) -> String {
    let mut table = output::table(&["VECTOR", "EXPECTED", "VERDICT", "SEEN"]);
    for outcome in &report.outcomes {
        table.add_row([
            outcome.vector,
            outcome.expected.name(),
            outcome.verdict.name(),
            outcome.seen.as_str(),
        ]);
    }
    let count = |verdict| report.count(verdict);
    let mut lines = vec![table.trim_fmt(), String::new()];
    if let Some(why) = &report.unwatched_because {
        lines.push(format!("Judged by what can be seen from inside only: {why}."));
    }
    lines.push(format!(
        "{} vectors: {} held, {} escaped, {} unproven, {} not available here",
        report.outcomes.len(),
        count(Verdict::Held),
        count(Verdict::Escaped),
        count(Verdict::Unproven),
        count(Verdict::NotAvailable),
    ));
    lines.join("\n")
}
