//! Letting go of everything, when Egret is taken off the node: the guards first, else they would refuse what is released next, then
//! every workload. Called by `app::agent`, which takes the pins away afterwards.

use std::sync::Arc;

use anyhow::Context as _;

use super::agent::Agent;

impl Agent {
    /// Releases every workload that goes on without us, and guards nothing any more. For good: nothing is enrolled, repaired or
    /// handed over afterwards. Connections that were captured go on. To be called again when it fails.
    pub async fn let_go(self: &Arc<Self>) -> anyhow::Result<()> {
        if !self.has_given_up() {
            // Waits for what is just being changed.
            let frozen = self.freeze().await;
            self.hand_over(frozen);
        }
        let agent = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            for parent in agent.capture.guarded()? {
                agent.capture.unguard(parent).context("strict start")?;
            }
            for enrolled in agent.foreign() {
                agent.withdraw(&enrolled)?;
            }
            Ok(())
        })
        .await?
    }
}
