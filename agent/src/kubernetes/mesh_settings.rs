//! The mesh-wide settings alone, for whoever needs nothing else of the configuration, and may read nothing else: the CA.

use k8s_openapi::api::core::v1::ConfigMap;
use tokio::sync::watch;

use super::{
    Cluster, names,
    watching::{mirror, named},
};
use crate::source::{directory::Loaded, index::Index};

/// Follows the settings; `None` until they were read. Those that are no good leave the last good ones in force. Ends when nobody
/// listens.
pub fn watch(cluster: &Cluster) -> watch::Receiver<Option<Loaded>> {
    let found = watch::Sender::new(None);
    let (sender, receiver) = watch::channel(None);
    let cluster = cluster.clone();
    let mut changed = found.subscribe();
    tokio::spawn(async move {
        let name = format!("ConfigMap {}/{}", cluster.own.namespace, names::MESH);
        let watching = mirror(
            cluster.in_own_namespace::<ConfigMap>(),
            named(names::MESH),
            &name,
            &cluster.standing,
            |map| map.data.and_then(|mut data| data.remove(names::MESH_KEY)),
            &found,
        );
        let handing_on = async {
            let mut index = Index::default();
            while changed.changed().await.is_ok() {
                let Some(all) = changed.borrow_and_update().clone() else { continue };
                match all.values().next() {
                    None => index.delete(&name),
                    Some(Some(text)) => index.apply(&name, text),
                    Some(None) => {
                        index.apply_unreadable(&name, &format!("it has no key {}", names::MESH_KEY));
                    }
                }
                sender.send_replace(Some(index.load()));
            }
        };
        tokio::select! {
            () = watching => {}
            () = handing_on => {}
            () = sender.closed() => {}
        }
    });
    receiver
}
