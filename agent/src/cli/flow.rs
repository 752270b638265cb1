//! `egret flow ID`: the whole story of one flow.

pub(super) mod story;

use std::process::ExitCode;

use anyhow::bail;

use super::{
    args::{Flow, Format},
    flows::asking::Roles,
    output,
};
use crate::flow::FlowQuery;

/// How many are named where the beginning of an id is that of several flows.
const NAMED: usize = 10;

/// Asks, prints.
pub(super) async fn run(arguments: Flow) -> anyhow::Result<ExitCode> {
    let Flow { query, access, id } = arguments;
    let roles = Roles::find(&access, &query.instance).await?;
    let mut flows = roles.flows(&FlowQuery { ids: vec![id], ..FlowQuery::default() }).await?;
    let Some(flow) = flows.pop() else {
        bail!(
            "no flow has an id that begins with {id}: `egret flows` lists those that are known, and the oldest of those that \
             ended make room for others"
        );
    };
    if !flows.is_empty() {
        let names = flows.iter().chain([&flow]).rev().take(NAMED).map(|flow| flow.joined.flow.id.to_string());
        bail!(
            "{} flows have ids that begin with {id}; write more of it. The newest of them: {}",
            flows.len() + 1,
            names.collect::<Vec<_>>().join(", ")
        );
    }
    match query.output.format {
        Format::Json => output::json(&flow)?,
        Format::Table => output::text(story::tell(&flow))?,
    }
    Ok(ExitCode::SUCCESS)
}
