//! One watch per kind that is wanted, each of which finds out the version that is served, and does so again when the kind was
//! missing or goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kube::runtime::watcher::Event;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    super::{
        Cluster,
        watching::{NO_SUCH_KIND, describe_cause, follow_until},
    },
    feed::Change,
    object,
    subject::{Subject, is_unknown},
};

/// How often a kind that is missing is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(3);

/// Watches what is wanted, for ever.
pub(super) async fn run(
    cluster: Cluster,
    mut wanted: watch::Receiver<BTreeSet<Subject>>,
    changes: mpsc::UnboundedSender<Change>,
) {
    let mut running: BTreeMap<Subject, JoinSet<()>> = BTreeMap::new();
    loop {
        let now = wanted.borrow_and_update().clone();
        for (subject, mut watch) in running.extract_if(.., |subject, _| !now.contains(subject)) {
            watch.shutdown().await;
            cluster.standing.forget(&subject.title(&cluster.own.namespace));
        }
        for subject in now {
            let watching = || [watch_kind(cluster.clone(), subject, changes.clone())].into_iter().collect();
            running.entry(subject).or_insert_with(watching);
        }
        if wanted.changed().await.is_err() {
            return;
        }
    }
}

async fn watch_kind(cluster: Cluster, subject: Subject, changes: mpsc::UnboundedSender<Change>) {
    let Cluster { client, own, standing } = cluster;
    let title = subject.title(&own.namespace);
    standing.expect(&title);
    let mut read = false;
    loop {
        match subject.discover(&client, &own.namespace).await {
            Ok(Some(resource)) => {
                let api = subject.api(&client, &own.namespace, &resource);
                let mut listed = Vec::new();
                // Nobody receives any more only when this ends, too.
                let send = |change| drop(changes.send(change));
                follow_until(
                    api,
                    subject.selection(),
                    &title,
                    &standing,
                    |event| match event {
                        Event::Init => listed.clear(),
                        Event::InitApply(object) => listed.extend(object::read(subject, &resource, object)),
                        Event::InitDone => {
                            read = true;
                            send(Change::Listed(subject, std::mem::take(&mut listed)));
                        }
                        Event::Apply(object) => {
                            let place = object::place(&resource, &object);
                            send(match object::read(subject, &resource, object) {
                                Some(object) => Change::Applied(subject, object),
                                None => Change::Deleted(subject, place),
                            });
                        }
                        Event::Delete(object) => {
                            send(Change::Deleted(subject, object::place(&resource, &object)));
                        }
                    },
                    is_unknown,
                )
                .await;
            }
            Ok(None) => {
                // What was there is gone when its deletion was seen, and not before.
                let news = if read {
                    standing.fails(&title, NO_SUCH_KIND.to_owned())
                } else {
                    standing.is_absent(&title, NO_SUCH_KIND)
                };
                if news {
                    tracing::warn!("{title}: {NO_SUCH_KIND}");
                }
                let _ = changes.send(Change::Unknown(subject));
            }
            Err(error) => {
                let problem = describe_cause(&error);
                if standing.fails(&title, problem.clone()) {
                    tracing::warn!("{title} cannot be read: {problem}");
                }
            }
        }
        // Not all at the same time.
        tokio::time::sleep(LOOK_AGAIN.mul_f64(rand::random_range(0.5..1.0))).await;
    }
}
