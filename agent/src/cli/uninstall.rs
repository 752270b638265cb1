//! `egret uninstall`: takes Egret off every node, and prints which are done. Fails when one is not.

use std::time::Duration;

use anyhow::Context as _;

use super::{args::Uninstall, output};
use crate::kubernetes::{Outside, removal::order::Place};

/// Orders, waits, prints.
pub(super) async fn run(arguments: &Uninstall) -> anyhow::Result<()> {
    let place = match arguments.access.cluster() {
        Some(access) => Place::outside(&Outside::connect(&access).await?),
        None => Place::around()?.context(
            "there is no cluster around this process: name one with --cluster, --context or --kubeconfig. `helm uninstall` needs none \
             of this: its hook runs in a pod, before anything is deleted",
        )?,
    };
    let mut printed = Ok(());
    let outcome = place
        .uninstall(Duration::from_secs(arguments.timeout), |line| {
            printed = std::mem::replace(&mut printed, Ok(())).and_then(|()| output::text(line));
        })
        .await;
    outcome?;
    printed?;
    output::text("nothing of Egret is left on any node; its objects can be deleted now")?;
    Ok(())
}
