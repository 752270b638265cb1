//! Watching: lists, then follows, lists again when the API server forgot where we were, and waits longer between tries while it is
//! away. Says in `standing` how it goes, and in the log what is news.
//!
//! Used by everything here that reads. What was read before stays in force while the API server is away: no event, no change.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt as _,
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

/// Hands every event to `apply`, for ever.
pub(super) async fn follow<K>(
    api: Api<K>,
    selection: watcher::Config,
    name: &str,
    standing: &Standing,
    mut apply: impl FnMut(Event<K>),
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    standing.expect(name);
    let mut events = Box::pin(watcher(api, selection).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if matches!(event, Event::InitDone) {
                    standing.is_read(name);
                } else if matches!(event, Event::Apply(_) | Event::Delete(_)) && standing.is_well(name) {
                    tracing::info!("{name}: watched again");
                }
                apply(event);
            }
            Err(error) => {
                let problem = describe(&error);
                if standing.fails(name, problem.clone()) {
                    tracing::warn!("{name} cannot be watched: {problem}");
                }
            }
        }
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

/// A sentence for an operator, with the remedy where there is one.
fn describe(error: &watcher::Error) -> String {
    let (watcher::Error::InitialListFailed(cause)
    | watcher::Error::WatchStartFailed(cause)
    | watcher::Error::WatchFailed(cause)) = error
    else {
        return format!("{:#}", anyhow::Error::msg(error.to_string()));
    };
    match cause {
        kube::Error::Api(status) if status.code == 403 => {
            format!("{}; give the service account this permission (the Helm chart does)", status.message)
        }
        kube::Error::Api(status) if status.code == 404 => {
            "the API server does not know this kind: install the CustomResourceDefinitions (the Helm chart does, \
             with crds.install)"
                .to_owned()
        }
        kube::Error::Api(status) => status.message.clone(),
        other => format!("the API server cannot be reached: {other}"),
    }
}
