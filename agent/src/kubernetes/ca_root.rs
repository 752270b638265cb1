//! The mesh's root certificates in a ConfigMap: the CA publishes them and repairs what others change; agents and gateways read them.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use tokio::{
    sync::watch,
    time::{Duration, sleep},
};

use super::{
    Cluster, names,
    watching::{describe_cause, mirror, named},
};

/// Who wrote it.
const MANAGER: &str = "egret-ca";
/// Between two writes: while keys change, two replicas may want different things for a moment.
const PAUSE: Duration = Duration::from_secs(1);

/// Follows what is published; `None` until it was read, empty where there is none. Ends when nobody listens.
pub fn watch(cluster: &Cluster) -> watch::Receiver<Option<String>> {
    let found = watch::Sender::new(None);
    let (sender, receiver) = watch::channel(None);
    let cluster = cluster.clone();
    let mut changed = found.subscribe();
    tokio::spawn(async move {
        let name = describe(&cluster);
        let watching = mirror(
            cluster.in_own_namespace::<ConfigMap>(),
            named(names::CA_ROOT),
            &name,
            &cluster.standing,
            |map| map.data.and_then(|mut data| data.remove(names::CA_ROOT_KEY)).unwrap_or_default(),
            &found,
        );
        let handing_on = async {
            while changed.changed().await.is_ok() {
                let now = changed.borrow_and_update().clone();
                sender.send_replace(now.map(|all| all.values().next().cloned().unwrap_or_default()));
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

/// Sees to it that what `wanted` says is published, for ever. While it says nothing, what is there stays.
pub async fn publish(cluster: Cluster, mut wanted: watch::Receiver<Option<String>>) {
    let mut published = watch(&cluster);
    let doing = format!("{} (publishing it)", describe(&cluster));
    cluster.standing.expect(&doing);
    loop {
        let want = wanted.borrow_and_update().clone();
        let have = published.borrow_and_update().clone();
        if let (Some(want), Some(have)) = (want, have) {
            if want == have {
                cluster.standing.is_read(&doing);
            } else {
                match apply(&cluster, &want).await {
                    Ok(()) => tracing::info!("published the root certificate in {}", describe(&cluster)),
                    Err(e) => {
                        let problem = describe_cause(&e);
                        if cluster.standing.fails(&doing, problem.clone()) {
                            tracing::error!("{} cannot be written: {problem}", describe(&cluster));
                        }
                    }
                }
                sleep(PAUSE).await;
                // The watch says what came of it; look again in any case.
                tokio::select! {
                    _ = published.changed() => {}
                    _ = wanted.changed() => {}
                    () = sleep(PAUSE) => {}
                }
                continue;
            }
        }
        let ended = tokio::select! {
            changed = published.changed() => changed.is_err(),
            changed = wanted.changed() => changed.is_err(),
        };
        if ended {
            return;
        }
    }
}

fn describe(cluster: &Cluster) -> String {
    format!("ConfigMap {}/{}", cluster.own.namespace, names::CA_ROOT)
}

async fn apply(cluster: &Cluster, roots: &str) -> kube::Result<()> {
    let map = ConfigMap {
        metadata: super::own_object(names::CA_ROOT, "ca"),
        data: Some([(names::CA_ROOT_KEY.to_owned(), roots.to_owned())].into()),
        ..ConfigMap::default()
    };
    let parameters = PatchParams::apply(MANAGER).force();
    let maps = cluster.in_own_namespace::<ConfigMap>();
    maps.patch(names::CA_ROOT, &parameters, &Patch::Apply(&map)).await.map(drop)
}
