//! What the page of `egret ui` asks agents and gateways for. However many windows are open, one question is out at a time, and its
//! answer serves all that want the same within a moment: on a cluster each is a command in every pod of Egret's.

use std::{future::Future, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::{sync::Mutex, time::Instant};

use crate::{
    admin::{AgentStatus, GatewayStatus, client},
    cli::{
        args::{ClusterAccess, Instance, Selection},
        cluster,
        flows::asking::Roles,
        output,
    },
    flow::FlowQuery,
    survey::{flows::PlacedFlow, health::Health, map::Window},
};

/// How far back it looks unless that is said.
const SINCE: SignedDuration = SignedDuration::from_mins(5);

/// Flows that are looked at; of more, those that count most.
const MOST: usize = 5000;

/// How long an answer serves.
const FRESH_ON_MACHINE: Duration = Duration::from_secs(1);
const FRESH_ON_CLUSTER: Duration = Duration::from_secs(5);

/// What was seen.
pub(super) struct Look {
    pub(super) cluster: bool,
    pub(super) now: Timestamp,
    since: Timestamp,
    /// Those that count most last.
    pub(super) flows: Vec<PlacedFlow>,
    pub(super) more: bool,
    pub(super) missing: Vec<String>,
}

impl Look {
    /// The time that it is about.
    pub(super) fn window(&self) -> Window {
        Window { from: self.since, to: self.now }
    }
}

/// Who is asked, and what they said last.
pub(super) struct Asking {
    instance: Instance,
    access: ClusterAccess,
    roles: Roles,
    fresh: Duration,
    looked: Last<Look>,
    health: Last<Health>,
}

impl Asking {
    /// Fails where a cluster is meant that cannot be connected to.
    pub(super) async fn new(instance: Instance, access: ClusterAccess) -> anyhow::Result<Self> {
        let roles = Roles::find(&access, &instance).await?;
        let fresh = if roles.is_cluster() { FRESH_ON_CLUSTER } else { FRESH_ON_MACHINE };
        Ok(Self { instance, access, roles, fresh, looked: Last::default(), health: Last::default() })
    }

    /// The flows of a selection; `query` is its text.
    pub(super) async fn look(&self, query: &str, selection: &Selection) -> anyhow::Result<Arc<Look>> {
        self.looked.get(query, self.fresh, self.ask(selection)).await
    }

    async fn ask(&self, selection: &Selection) -> anyhow::Result<Look> {
        let now = Timestamp::now();
        let since = now.checked_sub(selection.since().unwrap_or(SINCE)).unwrap_or(Timestamp::MIN);
        let query = FlowQuery { since: Some(since), limit: Some(MOST + 1), ..selection.query(now) };
        let found = self.roles.ask_all(&query).await?;
        let mut flows = found.flows;
        let more = flows.len() > MOST;
        flows.drain(..flows.len().saturating_sub(MOST));
        let missing = found.missing.iter().map(output::message).collect();
        Ok(Look { cluster: self.roles.is_cluster(), now, since, flows, more, missing })
    }

    /// How everything stands.
    pub(super) async fn health(&self) -> anyhow::Result<Arc<Health>> {
        let ask = async {
            if let Some(access) = self.access.cluster() {
                // All that it asks at once is large, and would be part of every answer's future.
                let overview = Box::pin(cluster::status::ask(&access)).await?;
                return Ok(Health::of_cluster(&overview));
            }
            let run_dir = self.instance.run_dir();
            let (agent_socket, gateway_socket) = (run_dir.agent_socket(), run_dir.socket("gateway"));
            let (agent, gateway) = tokio::join!(
                client::get::<AgentStatus>(&agent_socket, "/status"),
                client::get::<GatewayStatus>(&gateway_socket, "/status"),
            );
            let agent = agent.map_err(|e| output::message(&e.into()));
            let gateway = gateway.map_err(|e| output::message(&e.into()));
            let (agent, gateway) = (agent.as_ref(), gateway.as_ref());
            Ok(Health::of_machine(agent.map_err(String::as_str), gateway.map_err(String::as_str)))
        };
        self.health.get("", self.fresh, ask).await
    }
}

/// The last answer, with its question.
struct Last<T>(Mutex<Option<(String, Instant, Arc<T>)>>);

impl<T> Default for Last<T> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<T> Last<T> {
    /// The same answer as long as it is fresh. What is asked for meanwhile waits; a failure is not kept.
    async fn get(
        &self,
        question: &str,
        fresh: Duration,
        ask: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<Arc<T>> {
        let mut last = self.0.lock().await;
        if let Some((asked, at, answer)) = &*last
            && asked == question
            && at.elapsed() < fresh
        {
            return Ok(Arc::clone(answer));
        }
        // Before the new one is made: there may be much of it.
        *last = None;
        let answer = Arc::new(ask.await?);
        *last = Some((question.to_owned(), Instant::now(), Arc::clone(&answer)));
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_question_is_out_at_a_time_and_its_answer_serves_all() {
        let (last, asked) = (Last::default(), AtomicU32::new(0));
        let fresh = Duration::from_secs(5);
        let ask = async || {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(asked.fetch_add(1, Relaxed))
        };
        let (one, two, other) = tokio::join!(
            last.get("a", fresh, ask()),
            last.get("a", fresh, ask()),
            last.get("b", fresh, ask())
        );
        assert_eq!([*one.unwrap(), *two.unwrap(), *other.unwrap()], [0, 0, 1]);
        assert_eq!(*last.get("b", fresh, ask()).await.unwrap(), 1);
        tokio::time::sleep(fresh).await;
        assert_eq!(*last.get("b", fresh, ask()).await.unwrap(), 2);
        last.get("c", fresh, async { anyhow::bail!("down") }).await.unwrap_err();
        assert_eq!(*last.get("c", fresh, ask()).await.unwrap(), 3, "a failure is not kept");
    }
}
