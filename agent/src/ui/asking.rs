//! What the page asks for. However many windows are open, one question is out at a time, and its answer serves all that want the same
//! within a moment: on a cluster each is a command in every pod of Egret's.

use std::{future::Future, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::{sync::Mutex, time::Instant};

use crate::{
    flow::FlowQuery,
    survey::{flows::PlacedFlow, health::Health, map::Window, selection::Selection},
};

/// How far back it looks unless that is said.
const SINCE: SignedDuration = SignedDuration::from_mins(5);

/// Flows that are looked at; of more, those that count most.
const MOST: usize = 5000;

/// Who knows what the page shows. Errors are sentences for the reader.
pub trait Source: Send + Sync + 'static {
    /// How long an answer serves.
    fn fresh(&self) -> Duration;

    /// There are nodes and pods to tell of.
    fn is_cluster(&self) -> bool;

    /// What it is a view of, where that is not the whole.
    fn scope(&self) -> Option<String>;

    /// The flows that are asked for, those that count most last, and who did not say what they know.
    fn flows(
        &self,
        query: FlowQuery,
    ) -> impl Future<Output = Result<(Vec<PlacedFlow>, Vec<String>), String>> + Send;

    /// How everything stands.
    fn health(&self) -> impl Future<Output = Result<Health, String>> + Send;
}

/// What was seen.
pub(super) struct Look {
    pub(super) cluster: bool,
    pub(super) scope: Option<String>,
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
pub(super) struct Asking<S> {
    source: S,
    looked: Last<Look>,
    health: Last<Health>,
}

impl<S: Source> Asking<S> {
    pub(super) fn new(source: S) -> Self {
        Self { source, looked: Last::default(), health: Last::default() }
    }

    /// The flows of a selection; `query` is its text.
    pub(super) async fn look(&self, query: &str, selection: &Selection) -> Result<Arc<Look>, String> {
        self.looked.get(query, self.source.fresh(), self.ask(selection)).await
    }

    async fn ask(&self, selection: &Selection) -> Result<Look, String> {
        let now = Timestamp::now();
        let since = now.checked_sub(selection.since().unwrap_or(SINCE)).unwrap_or(Timestamp::MIN);
        let query = FlowQuery { since: Some(since), limit: Some(MOST + 1), ..selection.query(now) };
        let (mut flows, missing) = self.source.flows(query).await?;
        let more = flows.len() > MOST;
        flows.drain(..flows.len().saturating_sub(MOST));
        let (cluster, scope) = (self.source.is_cluster(), self.source.scope());
        Ok(Look { cluster, scope, now, since, flows, more, missing })
    }

    /// How everything stands.
    pub(super) async fn health(&self) -> Result<Arc<Health>, String> {
        self.health.get("", self.source.fresh(), self.source.health()).await
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
        ask: impl Future<Output = Result<T, String>>,
    ) -> Result<Arc<T>, String> {
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
        last.get("c", fresh, async { Err("down".to_owned()) }).await.unwrap_err();
        assert_eq!(*last.get("c", fresh, ask()).await.unwrap(), 3, "a failure is not kept");
    }
}
