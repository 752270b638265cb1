//! `egret flows`, `flow` and `top` on a cluster: all agents and gateways are asked, and every flow has the pods that carried it.

use parking_lot::Mutex;

use crate::{
    flow::FlowRecord,
    kubernetes::{Outside, ask, outside::Access},
    survey::{Answer, Role, RolePod, silent},
};

/// A cluster's agents and gateways.
pub(in crate::cli) struct Cluster {
    outside: Outside,
    pods: Mutex<Vec<RolePod>>,
}

impl Cluster {
    /// Connects.
    pub(in crate::cli) async fn find(access: &Access) -> anyhow::Result<Self> {
        Ok(Self { outside: Outside::connect(access).await?, pods: Mutex::default() })
    }

    /// Finds them, again and again: they come and go while somebody follows.
    pub(in crate::cli) async fn look(&self) -> anyhow::Result<()> {
        *self.pods.lock() = ask::pods(&self.outside).await?;
        Ok(())
    }

    /// Asks all of one role.
    pub(in crate::cli) async fn ask(&self, role: Role, path: &str) -> Vec<Answer<Vec<FlowRecord>>> {
        let pods = super::of_role(&self.pods.lock(), role);
        ask::each(&self.outside, pods, &["ask", role.name(), path]).await
    }

    /// Who did not answer; an error where nobody did.
    pub(in crate::cli) fn missing(
        &self,
        agents: &[Answer<Vec<FlowRecord>>],
        gateways: &[Answer<Vec<FlowRecord>>],
    ) -> anyhow::Result<Vec<anyhow::Error>> {
        let missing: Vec<_> = silent(agents).chain(silent(gateways)).map(|one| one.to_string()).collect();
        anyhow::ensure!(
            agents.iter().chain(gateways).any(|answer| answer.said.is_ok()),
            "no agent and no gateway in namespace {} answers: {}",
            self.outside.namespace,
            missing.join("; ")
        );
        Ok(missing.into_iter().map(anyhow::Error::msg).collect())
    }
}
