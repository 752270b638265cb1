//! `egret check`: validates a directory of YAML files, or the objects of a cluster; fails when an object is refused.

use std::process::ExitCode;

use anyhow::{Context as _, bail};

use super::{
    args::{Check, Format},
    output,
};
use crate::{
    kubernetes::{Outside, configuration},
    source::{directory, report::Report},
};

/// Loads once, prints what was found.
pub(super) async fn run(check: Check) -> anyhow::Result<ExitCode> {
    let loaded = if let Some(directory) = &check.directory {
        directory::load(directory)
            .with_context(|| format!("directory {} cannot be read", directory.display()))?
    } else if let Some(access) = check.access.cluster() {
        configuration::load(&Outside::connect(&access).await?).await?
    } else {
        bail!(
            "say what to check: a directory of YAML files, or a cluster with --cluster, --context or --kubeconfig"
        );
    };
    let mut report = Report::clone(&loaded.report);
    if let Some(namespace) = &check.namespace {
        report.problems.retain(|problem| problem.concerns(namespace));
    }
    match check.output.format {
        Format::Json => output::json(&report)?,
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
