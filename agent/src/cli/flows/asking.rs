//! Asks agents and gateways for flows, on this machine or on a cluster, and joins what they say.
//!
//! Each side is asked for what the query may mean as far as it can tell, and then for its records of what only the other side found.

use std::collections::HashSet;

use crate::{
    admin::client,
    app::run_dir::RunDir,
    cli::{
        args::{ClusterAccess, Instance},
        cluster::flows::Cluster,
        output,
    },
    flow::{self, FlowId, FlowQuery, FlowRecord},
    survey::{
        Answer, Role,
        flows::{self, PlacedFlow},
    },
};

/// Ids in one question: they are part of a URL, whose length is bounded to 64 KB, and on a cluster of the URL of a command in a pod, where
/// each takes 37 bytes.
const AT_ONCE: usize = 1024;

/// More ids than this are not asked for one by one: what they would be picked from is asked for as a whole.
const ONE_BY_ONE: usize = 8 * AT_ONCE;

/// Who is asked.
pub(in crate::cli) enum Roles {
    Machine(RunDir),
    Cluster(Box<Cluster>),
}

/// What is known, and who did not say what they know.
pub(in crate::cli) struct Told {
    pub(in crate::cli) flows: Vec<PlacedFlow>,
    pub(in crate::cli) missing: Vec<anyhow::Error>,
}

/// What one side says.
enum Said {
    Machine(Result<Vec<FlowRecord>, client::Error>),
    Cluster(Vec<Answer<Vec<FlowRecord>>>),
}

impl Said {
    fn records(&self) -> impl Iterator<Item = &FlowRecord> {
        let (machine, cluster) = match self {
            Self::Machine(said) => (Some(said), None),
            Self::Cluster(said) => (None, Some(said)),
        };
        let machine = machine.into_iter().flatten().flatten();
        machine.chain(cluster.into_iter().flatten().flat_map(|answer| answer.said.iter().flatten()))
    }

    fn add(&mut self, more: Self) {
        match (self, more) {
            (Self::Machine(Ok(known)), Self::Machine(Ok(more))) => known.extend(more),
            (Self::Cluster(known), Self::Cluster(more)) => known.extend(more),
            // Who did not answer is told of once.
            _ => {}
        }
    }
}

impl Roles {
    /// As the arguments say.
    pub(in crate::cli) async fn find(access: &ClusterAccess, instance: &Instance) -> anyhow::Result<Self> {
        Ok(match access.cluster() {
            Some(access) => Self::Cluster(Box::new(Cluster::find(&access).await?)),
            None => Self::Machine(instance.run_dir()),
        })
    }

    /// Whether there are nodes and pods to tell of.
    pub(in crate::cli) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// The flows that are asked for, those that count most last. Who did not answer is told of on stderr; it is an error where nobody did.
    pub(in crate::cli) async fn flows(&self, query: &FlowQuery) -> anyhow::Result<Vec<PlacedFlow>> {
        let Told { flows, missing } = self.ask_all(query).await?;
        for one in missing {
            output::error(&one);
        }
        Ok(flows)
    }

    /// The same for who has another place to say what is missing.
    pub(in crate::cli) async fn ask_all(&self, query: &FlowQuery) -> anyhow::Result<Told> {
        if let Self::Cluster(cluster) = self {
            cluster.look().await?;
        }
        let (mut agents, mut gateways) =
            tokio::join!(self.ask(Role::Agent, query), self.ask(Role::Gateway, query));
        let ids = |said: &Said| said.records().map(|record| record.id).collect::<HashSet<_>>();
        let (of_agents, of_gateways) = (ids(&agents), ids(&gateways));
        // What got no tunnel, no gateway has heard of.
        let tunnelled =
            agents.records().filter(|record| record.legs.tunnel.is_some()).map(|record| record.id);
        let far: Vec<FlowId> = tunnelled.filter(|id| !of_gateways.contains(id)).collect();
        let near: Vec<FlowId> = of_gateways.difference(&of_agents).copied().collect();
        // Asked for by nothing but their ids, both sides have said all.
        if *query != (FlowQuery { ids: query.ids.clone(), ..FlowQuery::default() }) {
            for (role, ids, said) in [(Role::Agent, near, &mut agents), (Role::Gateway, far, &mut gateways)] {
                if ids.len() > ONE_BY_ONE {
                    // Instead of what it said: that is part of it.
                    let all = FlowQuery { namespace: query.namespace.clone(), ..FlowQuery::default() };
                    *said = self.ask(role, &all).await;
                    continue;
                }
                for ids in ids.chunks(AT_ONCE) {
                    said.add(self.ask(role, &FlowQuery::of(ids)).await);
                }
            }
        }
        let mut told = self.join(agents, gateways)?;
        let matcher = query.matcher();
        told.flows.retain(|flow| matcher.selects(&flow.joined.flow));
        told.flows.sort_by_key(|flow| query.sort.key(&flow.joined.flow));
        Ok(told)
    }

    async fn ask(&self, role: Role, query: &FlowQuery) -> Said {
        // It is made of strings and numbers, which a URL can hold.
        let path = format!("/flows?{}", serde_urlencoded::to_string(query).unwrap_or_default());
        match self {
            Self::Machine(run_dir) => {
                let socket = match role {
                    Role::Agent => run_dir.agent_socket(),
                    Role::Gateway | Role::Ca => run_dir.socket(role.name()),
                };
                Said::Machine(client::get(&socket, &path).await)
            }
            Self::Cluster(cluster) => Said::Cluster(cluster.ask(role, &path).await),
        }
    }

    fn join(&self, agents: Said, gateways: Said) -> anyhow::Result<Told> {
        match (self, agents, gateways) {
            (Self::Cluster(cluster), Said::Cluster(agents), Said::Cluster(gateways)) => {
                let missing = cluster.missing(&agents, &gateways)?;
                Ok(Told { flows: flows::join(agents, gateways), missing })
            }
            // Half a view is worth more than none while one role is down; but it must not pass for the whole.
            (_, Said::Machine(Err(e)), Said::Machine(Err(_))) => Err(e.into()),
            (_, agents, gateways) => {
                let mut missing = Vec::new();
                let joined =
                    flow::join(side("agent", agents, &mut missing), side("gateway", gateways, &mut missing));
                Ok(Told { flows: joined.into_iter().map(PlacedFlow::from).collect(), missing })
            }
        }
    }
}

fn side(role: &str, said: Said, missing: &mut Vec<anyhow::Error>) -> Vec<FlowRecord> {
    match said {
        Said::Machine(records) => records.unwrap_or_else(|e| {
            missing.push(anyhow::Error::new(e).context(format!("flows of the {role} are missing here")));
            Vec::new()
        }),
        Said::Cluster(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
