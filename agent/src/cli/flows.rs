//! `egret flows`: every flow, from the workload to the external server.

pub(super) mod asking;
mod follow;
pub(super) mod table;

use std::process::ExitCode;

use jiff::{SignedDuration, Timestamp};

use self::asking::Roles;
use super::{
    args::{Flows, Format},
    output,
};
use crate::flow::FlowQuery;

/// How far back each question of a row reaches beyond the one before: clocks differ, and the two sides of a flow end one after the other.
pub(super) const OVERLAP: SignedDuration = SignedDuration::from_secs(5);

/// Asks agents and gateways, joins, prints.
pub(super) async fn run(arguments: Flows) -> anyhow::Result<ExitCode> {
    let roles = Roles::find(&arguments.access, &arguments.query.instance).await?;
    if arguments.follow {
        return follow::run(&roles, &arguments).await;
    }
    let query = arguments.selection.query(Timestamp::now());
    // One more, to know whether there are more.
    let asked = FlowQuery { limit: query.limit.map(|limit| limit.saturating_add(1)), ..query.clone() };
    let mut flows = roles.flows(&asked).await?;
    let limit = query.limit.unwrap_or(usize::MAX);
    let more = flows.len() > limit;
    flows.drain(..flows.len().saturating_sub(limit));
    match arguments.query.output.format {
        Format::Json => output::json(&flows)?,
        Format::Table => output::text(table::of(&flows, arguments.wide, roles.is_cluster()))?,
    }
    if more {
        output::note(&format!(
            "there are more than {} of them: --limit 0 shows all, filters show fewer",
            output::count(limit, "flow")
        ));
    }
    Ok(ExitCode::SUCCESS)
}
