//! `egret crds`: prints CustomResourceDefinitions of the Istio kinds, for clusters without Istio.

use serde_json::json;

use super::{
    args::{Format, Output},
    output,
};
use crate::source::crds;

/// Prints them: YAML for kubectl and for people, or one JSON list.
pub(super) fn run(output: &Output) -> anyhow::Result<()> {
    let definitions = crds::definitions();
    match output.format {
        Format::Json => output::json(&json!({"apiVersion": "v1", "kind": "List", "items": definitions}))?,
        Format::Table => {
            for definition in &definitions {
                output::text(format!("---\n{}", serde_saphyr::to_string(definition)?.trim_end()))?;
            }
        }
    }
    Ok(())
}
