//! `egret check`: validates a directory of YAML files; fails when an object is refused.

use std::process::ExitCode;

use anyhow::Context as _;

use super::{
    args::{Check, Format},
    output,
};
use crate::source::directory;

/// Loads once, prints what was found.
pub(super) fn run(check: &Check) -> anyhow::Result<ExitCode> {
    let loaded = directory::load(&check.directory)
        .with_context(|| format!("directory {} cannot be read", check.directory.display()))?;
    let report = &loaded.report;
    match check.output.format {
        Format::Json => output::json(report.as_ref())?,
        Format::Table => {
            for problem in &report.problems {
                output::text(problem.to_string())?;
            }
            let (objects, problems) = (report.objects, report.problems.len());
            output::text(format!(
                "{}, {}",
                output::count(objects, "object"),
                output::count(problems, "problem")
            ))?;
        }
    }
    Ok(if report.has_errors() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
