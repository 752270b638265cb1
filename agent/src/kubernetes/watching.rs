//! Watching: lists, then follows, lists again when the API server forgot where we were, and waits longer between tries while it is
//! away. Says in `standing` how it goes, and in the log what is news.
//!
//! Used by everything here that reads. What was read before stays in force while the API server is away: no event, no change.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Resource,
    api::ListParams,
    runtime::{
        WatchStreamExt as _,
        utils::Backoff,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_stream::StreamExt as _;

use super::standing::Standing;

/// Namespace (empty for what has none) and name.
pub(super) type Key = (String, String);

/// Everything of one kind that is there; `None` before it was read for the first time.
pub(super) type Mirror<V> = Option<Arc<BTreeMap<Key, V>>>;

/// How long after a failure the API server is asked whether it is back, where no event would tell: longer than a watch that still
/// fails waits, so that it fails again before that.
const ASK: Duration = Duration::from_secs(3);

/// Too much happened since: everything has to be listed again, as now and then it has.
const GONE: u16 = 410;

/// Hands every event to `apply`, for ever.
pub(super) async fn follow<K>(
    api: Api<K>,
    selection: watcher::Config,
    name: &str,
    standing: &Standing,
    apply: impl FnMut(Event<K>),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    follow_until(api, selection, name, standing, apply, |_| false).await;
}

/// Hands every event to `apply` until `ends` says of a failure that it is the last.
pub(super) async fn follow_until<K>(
    api: Api<K>,
    selection: watcher::Config,
    name: &str,
    standing: &Standing,
    mut apply: impl FnMut(Event<K>),
    ends: impl Fn(&kube::Error) -> bool,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    standing.expect(name);
    let any = first(&selection);
    let mut events = Box::pin(watcher(api.clone(), selection).backoff(Patience::default()));
    // A watch that goes on where it was brings no event, so somebody has to ask.
    let mut away = false;
    loop {
        let back = async {
            tokio::time::sleep(ASK).await;
            api.list_metadata(&any).await.is_ok()
        };
        let event = tokio::select! {
            event = events.next() => event,
            is_back = back, if away => {
                if is_back && standing.is_well(name) {
                    tracing::info!("{name}: watched again");
                }
                away = !is_back;
                continue;
            }
        };
        match event {
            Some(Ok(event)) => {
                if matches!(event, Event::InitDone) {
                    standing.is_read(name);
                    away = false;
                } else if matches!(event, Event::Apply(_) | Event::Delete(_)) && standing.is_well(name) {
                    tracing::info!("{name}: watched again");
                    away = false;
                }
                apply(event);
            }
            Some(Err(error)) => {
                if cause(&error).is_some_and(&ends) {
                    return;
                }
                if let watcher::Error::WatchError(status) = &error
                    && status.code == GONE
                {
                    tracing::debug!("{name} is listed again: {}", status.message);
                    continue;
                }
                away = true;
                let problem = describe(&error);
                if standing.fails(name, problem.clone()) {
                    tracing::warn!("{name} cannot be watched: {problem}");
                }
            }
            None => return,
        }
    }
}

/// How long is waited between tries: little, so that what changed while the API server was away is in force soon after, and not
/// at the same time as everybody else.
#[derive(Default)]
struct Patience {
    tries: u32,
    last: Option<Instant>,
}

impl Patience {
    /// Without a failure for this long, the next one is a first one.
    const CALM: Duration = Duration::from_secs(10);

    fn after(&mut self, now: Instant) -> Duration {
        if self.last.is_none_or(|last| now.duration_since(last) > Self::CALM) {
            self.tries = 0;
        }
        self.last = Some(now);
        let most = (200 << self.tries).min(2_000);
        self.tries = (self.tries + 1).min(4);
        Duration::from_millis(rand::random_range(most / 2..=most))
    }
}

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.after(Instant::now()))
    }
}

impl Backoff for Patience {
    // Every new try to list begins with an event, which is no success.
    fn reset(&mut self) {}
}

/// Asks for one object of a selection: enough to know how it stands with them.
pub(super) fn first(selection: &watcher::Config) -> ListParams {
    let any = ListParams::default().limit(1);
    ListParams {
        label_selector: selection.label_selector.clone(),
        field_selector: selection.field_selector.clone(),
        ..any
    }
}

/// Keeps a mirror of what is there, as `read` makes it; nobody listening ends it.
pub(super) async fn mirror<K, V>(
    api: Api<K>,
    selection: watcher::Config,
    name: &str,
    standing: &Standing,
    read: impl Fn(K) -> V,
    sender: &watch::Sender<Mirror<V>>,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    V: Clone + PartialEq,
{
    let mut listed = BTreeMap::new();
    let following = follow(api, selection, name, standing, |event| match event {
        Event::Init => listed.clear(),
        Event::InitApply(object) => {
            listed.insert(key(object.meta()), read(object));
        }
        Event::InitDone => {
            let listed = std::mem::take(&mut listed);
            sender.send_if_modified(|mirror| {
                let changed = mirror.as_deref() != Some(&listed);
                *mirror = Some(Arc::new(listed));
                changed
            });
        }
        Event::Apply(object) => {
            let (key, value) = (key(object.meta()), read(object));
            change(sender, |all| all.insert(key, value.clone()).as_ref() != Some(&value));
        }
        Event::Delete(object) => {
            let key = key(object.meta());
            change(sender, |all| all.remove(&key).is_some());
        }
    });
    tokio::select! {
        () = following => {}
        () = sender.closed() => {}
    }
    standing.forget(name);
}

/// Changes the mirror; who listens is told if `edit` says so.
fn change<V: Clone>(sender: &watch::Sender<Mirror<V>>, edit: impl FnOnce(&mut BTreeMap<Key, V>) -> bool) {
    sender.send_if_modified(|mirror| edit(Arc::make_mut(mirror.get_or_insert_default())));
}

pub(super) fn key(meta: &ObjectMeta) -> Key {
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

/// Selects one object by its name, which is all that RBAC rules with `resourceNames` allow.
pub(super) fn named(name: &str) -> watcher::Config {
    watcher::Config::default().fields(&format!("metadata.name={name}"))
}

fn cause(error: &watcher::Error) -> Option<&kube::Error> {
    match error {
        watcher::Error::InitialListFailed(cause)
        | watcher::Error::WatchStartFailed(cause)
        | watcher::Error::WatchFailed(cause) => Some(cause),
        _ => None,
    }
}

/// A sentence for an operator, with the remedy where there is one.
fn describe(error: &watcher::Error) -> String {
    match (error, cause(error)) {
        (_, Some(cause)) => describe_cause(cause),
        (watcher::Error::WatchError(status), None) => status.message.clone(),
        (other, None) => other.to_string(),
    }
}

/// A sentence for an operator, with the remedy where there is one.
pub(super) fn describe_cause(cause: &kube::Error) -> String {
    match cause {
        kube::Error::Api(status) if status.code == 403 => {
            format!("{}; give this account the permission (the Helm chart does)", status.message)
        }
        kube::Error::Api(status) if status.code == 404 => NO_SUCH_KIND.to_owned(),
        kube::Error::Api(status) => status.message.clone(),
        other => format!("the API server cannot be reached: {}", chain(other)),
    }
}

/// An error with its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !said.contains(&more) {
            said = format!("{said}: {more}");
        }
        next = cause.source();
    }
    said
}

/// What to do where a kind is missing.
pub(super) const NO_SUCH_KIND: &str = "the API server does not know this kind: install the CustomResourceDefinitions \
    (the Helm chart does, with crds.install)";

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use kube::runtime::utils::Backoff as _;

    use super::{Patience, describe_cause};

    #[test]
    fn nobody_waits_long_and_not_all_alike() {
        let (mut patience, mut now) = (Patience::default(), Instant::now());
        let mut wait = |patience: &mut Patience| {
            let waited = patience.after(now);
            now += waited;
            patience.reset();
            waited
        };
        let waits: Vec<_> = (0..50).map(|_| wait(&mut patience)).collect();
        assert!(waits[0] <= Duration::from_millis(200), "{waits:?}");
        assert!(waits[10..].iter().all(|wait| *wait >= Duration::from_secs(1)), "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(2)), "{waits:?}");
        assert!(waits[10..].windows(2).any(|pair| pair[0] != pair[1]), "{waits:?}");
        now += Duration::from_secs(20);
        assert!(patience.after(now) <= Duration::from_millis(200));
    }

    #[test]
    fn an_error_is_told_with_its_causes_once() {
        let cause = std::io::Error::other("no route");
        let error = kube::Error::Service(Box::new(std::io::Error::other(cause)));
        assert_eq!(describe_cause(&error), "the API server cannot be reached: ServiceError: no route");
    }
}
