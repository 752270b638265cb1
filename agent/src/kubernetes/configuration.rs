//! Configuration from the Kubernetes API: objects become objects of `source::index`, which decides what is in force.
//!
//! `app::role` starts it, in place of a directory; `cli` reads a cluster once. One watch per kind feeds one index: a bad object is
//! refused and its last good version stays, one that is gone goes, one that is listed again as it was changes nothing. What was
//! read stays in force while the API server is away. Nothing is in force before everything was read once.

mod feed;
mod object;
mod once;
mod subject;
mod watches;

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;

use self::feed::Feed;
use super::Cluster;
use crate::source::following::{Loaded, follow};
pub use once::load;

/// Which part of the configuration a role needs; it has no permission for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of it.
    Gateway,
    /// The settings; ServiceEntries where names are answered by them.
    Agent,
    /// The settings.
    Ca,
}

/// Follows the configuration until `stop`; the first load is done when this returns, however long that takes.
pub async fn watch(
    cluster: &Cluster,
    scope: Scope,
    stop: &CancellationToken,
) -> Option<watch::Receiver<Loaded>> {
    let (sender, mut receiver) = watch::channel(Loaded::default());
    let (changes, changed) = mpsc::unbounded_channel();
    let (feed, wanted) = Feed::new(scope, &cluster.own.namespace, cluster.standing.clone());
    let watching = watches::run(cluster.clone(), wanted, changes);
    let following = follow(feed, UnboundedReceiverStream::new(changed), None, sender);
    let stopped = stop.clone();
    receiver.mark_unchanged();
    tokio::spawn(stopped.run_until_cancelled_owned(async move {
        tokio::select! {
            () = watching => {}
            () = following => {}
        }
    }));
    stop.run_until_cancelled(receiver.changed()).await?.ok()?;
    Some(receiver)
}
