//! `egret flows` and `egret flow` on a cluster: all agents and gateways are asked, and every flow has the pods that carried it.

use anyhow::bail;

use crate::{
    cli::output,
    flow::FlowRecord,
    kubernetes::{Outside, ask, outside::Access},
    survey::{Answer, Role, RolePod, silent},
};

/// A cluster's agents and gateways.
pub(in crate::cli) struct Cluster {
    outside: Outside,
    pods: Vec<RolePod>,
}

impl Cluster {
    /// Finds them.
    pub(in crate::cli) async fn find(access: &Access) -> anyhow::Result<Self> {
        let outside = Outside::connect(access).await?;
        let pods = ask::pods(&outside).await?;
        Ok(Self { outside, pods })
    }

    /// Asks all of one role.
    pub(in crate::cli) async fn ask(&self, role: Role, path: &str) -> Vec<Answer<Vec<FlowRecord>>> {
        let pods = super::of_role(&self.pods, role);
        ask::each(&self.outside, pods, &["ask", role.name(), path]).await
    }

    /// Who did not answer; an error where nobody did.
    pub(in crate::cli) fn missing(
        &self,
        agents: &[Answer<Vec<FlowRecord>>],
        gateways: &[Answer<Vec<FlowRecord>>],
    ) -> anyhow::Result<Vec<anyhow::Error>> {
        let missing: Vec<_> =
            silent(agents).chain(silent(gateways)).map(|one| anyhow::Error::msg(one.to_string())).collect();
        if !agents.iter().chain(gateways).any(|answer| answer.said.is_ok()) {
            missing.iter().for_each(output::error);
            bail!("no agent and no gateway in namespace {} answers", self.outside.namespace);
        }
        Ok(missing)
    }
}
