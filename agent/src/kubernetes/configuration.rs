//! Configuration from the Kubernetes API: objects become documents of `source::index`, which decides what is in force.
//!
//! `app::role` starts it, in place of a directory.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::watcher::Event;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Cluster, names,
    watching::{follow, named},
};
use crate::source::{directory::Loaded, index::Index};

/// Follows the mesh-wide settings until `stop`; the first load is done when this returns, however long that takes.
pub async fn watch(cluster: &Cluster, stop: &CancellationToken) -> Option<watch::Receiver<Loaded>> {
    let (sender, mut receiver) = watch::channel(Loaded::default());
    let (cluster, stopped) = (cluster.clone(), stop.clone());
    receiver.mark_unchanged();
    tokio::spawn(async move {
        let file = format!("ConfigMap {}/{}", cluster.own.namespace, names::MESH);
        let mut index = Index::default();
        let maps = cluster.in_own_namespace::<ConfigMap>();
        let following = follow(
            maps,
            named(names::MESH),
            &file,
            &cluster.standing,
            |event: Event<ConfigMap>| match event {
                Event::Init => index.delete(&file),
                Event::InitApply(map) => apply(&mut index, &file, &map),
                Event::InitDone => drop(sender.send_replace(index.load())),
                Event::Apply(map) => {
                    apply(&mut index, &file, &map);
                    sender.send_replace(index.load());
                }
                Event::Delete(_) => {
                    index.delete(&file);
                    sender.send_replace(index.load());
                }
            },
        );
        stopped.run_until_cancelled(following).await;
    });
    stop.run_until_cancelled(receiver.changed()).await?.ok()?;
    Some(receiver)
}

fn apply(index: &mut Index, file: &str, map: &ConfigMap) {
    match map.data.as_ref().and_then(|data| data.get(names::MESH_KEY)) {
        Some(text) => index.apply(file, text),
        None => index.apply_unreadable(file, &format!("it has no key {}", names::MESH_KEY)),
    }
}
