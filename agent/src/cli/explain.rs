//! `egret explain`: what would happen to a request, and which object decides it, by the functions of the data path.
//!
//! Asks the running gateway, the files that `-f` names, or the objects of a cluster. Ends with 1 when the request would be refused.

use std::process::ExitCode;

use anyhow::Context as _;

use super::{
    args::{Explain, Format},
    output,
};
use crate::{
    admin::{Answer, Question, client},
    kubernetes::{Outside, configuration},
    source::directory,
};

/// Asks, prints.
pub(super) async fn run(explain: Explain) -> anyhow::Result<ExitCode> {
    let question = Question {
        namespace: explain.from.namespace,
        service_account: explain.from.service_account,
        method: explain.method.to_string(),
        url: explain.url,
        dialled: explain.to,
        headers: explain.headers,
    };
    let answer: Answer = if let Some(directory) = &explain.config {
        let loaded = directory::load(directory)
            .with_context(|| format!("directory {} cannot be read", directory.display()))?;
        question.ask(&loaded.snapshot).map_err(anyhow::Error::msg)?
    } else if let Some(access) = explain.access.cluster() {
        let loaded = configuration::load(&Outside::connect(&access).await?).await?;
        question.ask(&loaded.snapshot).map_err(anyhow::Error::msg)?
    } else {
        client::post(&explain.instance.run_dir().socket("gateway"), "/explain", &question).await?
    };
    match explain.output.format {
        Format::Json => output::json(&answer.explanation)?,
        Format::Table => output::text(answer.text.trim_end())?,
    }
    Ok(if answer.allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
