//! `egret status` on a cluster, on one screen.

use std::process::ExitCode;

use jiff::Timestamp;

use crate::{
    admin::{AgentStatus, CaStatus, GatewayStatus},
    cli::{args::Format, output},
    kubernetes::{Outside, ask, outside::Access, scene},
    source::report::Severity,
    survey::{
        Role, RolePod,
        overview::{Asked, EnrolledRow, GatewayRow, NodeRow, Overview, overview},
    },
};

/// Rows of a kind that are shown; of more it is said how many. `-o json` has all.
const ROWS: usize = 20;

/// Longer names lose their middle.
const NAME: usize = 32;

/// Asks everyone, prints; fails when nobody answered.
pub(in crate::cli) async fn run(access: &Access, pods: bool, format: Format) -> anyhow::Result<ExitCode> {
    let overview = ask(access).await?;
    match format {
        Format::Json => output::json(&overview)?,
        Format::Table => output::text(human(&overview, pods, Timestamp::now()))?,
    }
    Ok(if overview.anyone_answered() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Asks everyone.
pub(in crate::cli) async fn ask(access: &Access) -> anyhow::Result<Overview> {
    let outside = Outside::connect(access).await?;
    let (ours, scene) = tokio::join!(ask::pods(&outside), scene::look(&outside));
    let ours = ours?;
    let of = |role| super::of_role(&ours, role);
    let (agents, gateways, authorities) = tokio::join!(
        ask::each::<AgentStatus>(&outside, of(Role::Agent), &["ask", "agent", "/status"]),
        ask::each::<GatewayStatus>(&outside, of(Role::Gateway), &["ask", "gateway", "/status"]),
        ask::each::<CaStatus>(&outside, of(Role::Ca), &["ask", "ca", "/status"]),
    );
    let asked = Asked { agents, gateways, authorities, scene, now: Timestamp::now() };
    Ok(overview(&outside.namespace, &asked))
}

fn human(overview: &Overview, pods: bool, now: Timestamp) -> String {
    let mut lines = head(overview, now);
    lines.extend([String::new(), nodes(&overview.nodes), String::new(), gateways(&overview.gateways)]);
    if pods {
        lines.extend([String::new(), enrolled(&overview.enrolled)]);
    }
    let mut section = |name: &str, entries: Vec<String>| {
        if entries.is_empty() {
            return;
        }
        lines.extend([String::new(), format!("{name} ({})", entries.len())]);
        let more = entries.len().saturating_sub(ROWS);
        lines.extend(entries.into_iter().take(ROWS));
        if more > 0 {
            lines.push(format!("  … and {more} more: -o json has all"));
        }
    };
    section(
        "NOT CAPTURED",
        overview
            .uncaptured
            .iter()
            .map(|row| {
                let (namespace, pod, node, why) = (&row.namespace, &row.pod, &row.node, &row.why);
                output::wrapped("  ", &format!("{namespace}/{pod} on {node}: {why}"))
            })
            .collect(),
    );
    section(
        "PROBLEMS",
        overview
            .problems
            .iter()
            .map(|problem| {
                let label = match problem.severity {
                    Severity::Error => "  error    ",
                    Severity::Warning => "  warning  ",
                };
                let text = output::wrapped(label, &format!("{}: {}", problem.object, problem.problem));
                match &problem.remedy {
                    Some(remedy) => format!("{text}\n{}", output::wrapped("           → ", remedy)),
                    None => text,
                }
            })
            .collect(),
    );
    section("NOT SEEN", overview.unseen.iter().map(|why| output::wrapped("  ", why)).collect());
    lines.join("\n")
}

/// A line each for what holds for all.
fn head(overview: &Overview, now: Timestamp) -> Vec<String> {
    let mut lines = vec![output::wrapped(
        "egret    ",
        &match &overview.configuration {
            Some(config) => format!(
                "namespace {}, trust domain {}, unregistered hosts: {}",
                overview.namespace, config.trust_domain, config.outbound_traffic_policy
            ),
            None => format!("namespace {}", overview.namespace),
        },
    )];
    lines.push(overview.configuration.as_ref().map_or_else(
        || "config   unknown: no gateway answers".to_owned(),
        |config| {
            let (objects, warnings) =
                (output::count(config.objects, "object"), output::count(config.warnings, "warning"));
            let refused = if config.errors == 0 {
                "none refused".to_owned()
            } else {
                format!("{} REFUSED", config.errors)
            };
            format!("config   {objects} in force, {refused}, {warnings}")
        },
    ));
    let until = |end: Timestamp| {
        let left = end.duration_since(now);
        if left.is_negative() { "has ENDED".to_owned() } else { format!("ends in {}", output::span(left)) }
    };
    let authorities = &overview.authorities;
    let ready = authorities.iter().filter(|pod| RolePod::is_well(pod)).count();
    let certificates = &overview.certificates;
    let root = certificates.root_ends.map(|end| format!(", root certificate {}", until(end)));
    lines.push(format!("ca       {ready} of {} ready{}", authorities.len(), root.unwrap_or_default()));
    let held = output::count(certificates.valid, "certificate");
    let first = certificates.first_ends.map(|end| format!(" valid, the first {}", until(end)));
    let wrong = [(certificates.overdue, "OVERDUE"), (certificates.failed, "MISSING")];
    let wrong =
        wrong.iter().filter(|(number, _)| *number > 0).map(|(number, what)| format!(", {number} {what}"));
    lines.push(format!("identity {held}{}{}", first.unwrap_or_default(), wrong.collect::<Vec<_>>().concat()));
    lines
}

/// All nodes where there are few; where there are many, first those with something to see.
fn nodes(rows: &[NodeRow]) -> String {
    let mut table = output::table(&["NODE", "AGENT", "STATE", "VERSION", "ENROLLED", "CAPTURE", "PROBLEMS"]);
    let mut sorted: Vec<&NodeRow> = rows.iter().collect();
    if rows.len() > ROWS {
        sorted.sort_by_key(|row| is_well(row));
    }
    for row in sorted.iter().take(ROWS) {
        let known = |text: String| if row.answered { text } else { "?".to_owned() };
        table.add_row([
            output::short(&row.node, NAME),
            row.agent.as_deref().map_or_else(|| "-".to_owned(), |name| output::short(name, 20)),
            row.state().to_owned(),
            row.version.clone().unwrap_or_else(|| "?".to_owned()),
            known(row.enrolled.to_string()),
            known(capture(row)),
            known(row.problems.to_string()),
        ]);
    }
    let text = table.trim_fmt();
    match sorted.get(ROWS..) {
        None | Some([]) => text,
        Some(rest) => {
            let troubled = rest.iter().filter(|row| !is_well(row)).count();
            format!("{text}\n  … and {} more nodes, {troubled} of them with problems", rest.len())
        }
    }
}

fn is_well(row: &NodeRow) -> bool {
    row.answered && row.ready && row.escaped == 0 && row.open == 0 && row.uncaptured == 0 && row.problems == 0
}

fn capture(row: &NodeRow) -> String {
    let counts = [(row.uncaptured, "NOT CAPTURED"), (row.open, "open")];
    let mut said: Vec<_> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if row.escaped > 0 {
        said.push(format!("{} ESCAPED", row.escaped));
    }
    match (said.is_empty(), row.enrolled) {
        (true, 0) => "-".to_owned(),
        (true, _) => "ok".to_owned(),
        (false, _) => said.join(", "),
    }
}

fn gateways(rows: &[GatewayRow]) -> String {
    if rows.is_empty() {
        return "no gateways".to_owned();
    }
    let mut table = output::table(&["GATEWAY", "NODE", "STATE", "VERSION", "CONFIG", "OBJECTS", "TUNNELS"]);
    for row in rows.iter().take(ROWS) {
        let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "?".to_owned());
        table.add_row([
            row.pod.clone(),
            row.node.as_deref().map_or_else(|| "-".to_owned(), |name| output::short(name, NAME)),
            row.state().to_owned(),
            or_unknown(row.version.clone()),
            or_unknown(row.config_version.map(|version| version.to_string())),
            or_unknown(row.objects.map(|objects| objects.to_string())),
            or_unknown(row.tunnels.map(|tunnels| tunnels.to_string())),
        ]);
    }
    table.trim_fmt()
}

fn enrolled(rows: &[EnrolledRow]) -> String {
    if rows.is_empty() {
        return "nothing is enrolled".to_owned();
    }
    let mut table = output::table(&["NAMESPACE", "NAME", "NODE", "IDENTITY", "LOCKS", "ESCAPED"]);
    for row in rows {
        table.add_row([
            row.namespace.clone(),
            row.name.clone(),
            row.node.clone(),
            row.identity.clone(),
            row.open.clone().unwrap_or_else(|| "hold".to_owned()),
            row.escaped.to_string(),
        ]);
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests;
