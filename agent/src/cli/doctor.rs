//! `egret doctor`: prints what the probes found; fails when one of them is an error.

use std::process::ExitCode;

use super::{
    args::{Doctor, Format},
    cluster, output,
};
use crate::doctor::{self, Report, Status};

/// Probes, prints.
pub(super) async fn run(arguments: Doctor) -> anyhow::Result<ExitCode> {
    if let Some(access) = arguments.access.cluster() {
        return cluster::doctor::run(&access, arguments.output.format).await;
    }
    let report = doctor::examine(&arguments.subject()).await;
    match arguments.output.format {
        Format::Json => output::json(&report)?,
        Format::Table => output::text(human(&report))?,
    }
    Ok(if report.has_errors() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn human(report: &Report) -> String {
    let mut table = output::table(&["CHECK", "STATUS", "FINDING"]);
    for check in &report.checks {
        table.add_row([check.name.as_str(), check.status.name(), check.finding.as_str()]);
        if let Some(remedy) = &check.remedy {
            table.add_row(["", "", &format!("→ {remedy}")]);
        }
    }
    let count = |status| report.checks.iter().filter(|check| check.status == status).count();
    format!(
        "{}\n\n{} checks: {} errors, {} warnings",
        table.trim_fmt(),
        report.checks.len(),
        count(Status::Error),
        count(Status::Warning)
    )
}

#[cfg(test)]
mod tests {
    use super::human;
    use crate::doctor::{Check, Report};

    #[test]
    fn people_read_the_remedy_below_the_finding() {
        let report = Report {
            checks: vec![Check::ok("root", "euid 0"), Check::error("btf", "no BTF", "another kernel")],
        };
        let text = human(&report);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert!(lines[2].starts_with("btf") && lines[2].contains("error"), "{text}");
        assert_eq!(lines[3], "→ another kernel");
        assert_eq!(lines[5], "2 checks: 1 errors, 0 warnings");
    }
}
