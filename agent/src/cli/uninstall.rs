//! `egret uninstall`: takes Egret off every node, and prints which are done. Fails when one is not.

use std::time::Duration;

use anyhow::Context as _;

use super::{args::Uninstall, output};
use crate::kubernetes::removal::order::Place;

/// Orders, waits, prints.
pub(super) async fn run(arguments: &Uninstall) -> anyhow::Result<()> {
    let place = Place::around()?.context(
        "there is no cluster around this process: egret uninstall runs in a pod, as the chart's hook does before `helm uninstall` \
         deletes anything",
    )?;
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
