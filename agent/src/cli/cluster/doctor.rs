//! `egret doctor` on a cluster: what is found on every node, each finding once with the nodes that have it, and what is found of the
//! cluster itself.

use std::process::ExitCode;

use crate::{
    admin::AgentStatus,
    cli::{args::Format, output},
    doctor::{Report, Status},
    kubernetes::{Outside, ask, outside::Access, scene},
    survey::{
        Role,
        findings::{self, Finding, Findings},
    },
};

/// Nodes that are named; of more it is said how many.
const NAMED: usize = 5;

/// Asks every agent's pod to examine its node, merges, prints; fails when a finding is an error, or no node was examined.
pub(in crate::cli) async fn run(access: &Access, format: Format) -> anyhow::Result<ExitCode> {
    let outside = Outside::connect(access).await?;
    let pods = ask::pods(&outside).await?;
    let agents = super::of_role(&pods, Role::Agent);
    let (reports, statuses, seen, mut of_cluster) = tokio::join!(
        ask::each::<Report>(&outside, agents.clone(), &["doctor", "-o", "json"]),
        ask::each::<AgentStatus>(&outside, agents, &["ask", "agent", "/status"]),
        scene::look(&outside),
        scene::findings(&outside),
    );
    of_cluster.extend(findings::of_cluster(&pods, &statuses, &seen));
    let found = findings::merge(of_cluster, &reports);
    match format {
        Format::Json => output::json(&found)?,
        Format::Table => output::text(human(&found))?,
    }
    super::complain(found.silent.iter().cloned());
    Ok(if found.has_errors() || found.examined == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn human(found: &Findings) -> String {
    let mut lines = Vec::new();
    // They come in a row, and one line says it for all.
    let mut programs = Some(found.checks.iter().filter(|finding| is_taken(finding)).count());
    for finding in &found.checks {
        if is_taken(finding) {
            let taken = programs.take().map(|count| output::count(count, "program"));
            lines.extend(taken.map(|taken| format!("ok       {taken}: the kernel takes them")));
            continue;
        }
        let check = &finding.check;
        let nodes = match finding.nodes.len() {
            0 => " (cluster)".to_owned(),
            // What holds everywhere needs no names.
            all if all == found.examined => String::new(),
            1..=NAMED => format!(" (on {})", finding.nodes.join(", ")),
            more => format!(" (on {}, and {} more nodes)", finding.nodes[..NAMED].join(", "), more - NAMED),
        };
        let label = format!("{:<8} ", check.status.name());
        lines.push(output::wrapped(&label, &format!("{}: {}{nodes}", check.name, check.finding)));
        lines.extend(check.remedy.as_ref().map(|remedy| output::wrapped("         → ", remedy)));
    }
    lines.push(String::new());
    lines.push(format!(
        "{} on {}: {}, {}",
        output::count(found.checks.len(), "finding"),
        output::count(found.examined, "node"),
        output::count(found.count(Status::Error), "error"),
        output::count(found.count(Status::Warning), "warning"),
    ));
    lines.join("\n")
}

/// A program that verifiers have nothing against. One that only some refuse is found on those.
fn is_taken(finding: &Finding) -> bool {
    finding.check.status == Status::Ok && finding.check.name.starts_with("program ")
}

#[cfg(test)]
mod tests {
    use super::human;
    use crate::{
        doctor::Check,
        survey::findings::{Finding, Findings},
    };

    #[test]
    fn every_finding_says_where_it_was_made() {
        let nodes = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let found = Findings {
            checks: vec![
                Finding { check: Check::ok("definitions", "there"), nodes: Vec::new() },
                Finding { check: Check::ok("root", "euid 0"), nodes: nodes(&["a", "b"]) },
                Finding { check: Check::ok("program egret_a", "taken"), nodes: nodes(&["a", "b"]) },
                Finding { check: Check::ok("program egret_b", "taken"), nodes: nodes(&["a"]) },
                Finding { check: Check::error("btf", "none", "another kernel"), nodes: nodes(&["b"]) },
            ],
            silent: Vec::new(),
            examined: 2,
        };
        assert_eq!(
            human(&found),
            "ok       definitions: there (cluster)\n\
             ok       root: euid 0\n\
             ok       2 programs: the kernel takes them\n\
             error    btf: none (on b)\n         → another kernel\n\n\
             5 findings on 2 nodes: 1 error, 0 warnings"
        );
    }
}
