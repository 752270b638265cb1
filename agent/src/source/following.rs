//! What sources that change have in common: changes come in bursts, and a burst is taken in and compiled once, on a thread that
//! may block.
//!
//! `directory` and `kubernetes::configuration` bring a [`Source`].

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tokio_stream::{Stream, StreamExt as _};

use super::report::Report;
use crate::mesh::Snapshot;

/// A burst ends when nothing happens for this long.
const QUIET: Duration = Duration::from_millis(100);

/// A burst that does not end is taken in after this long, so that somebody who changes objects all the time delays nobody.
const LONGEST: Duration = Duration::from_millis(500);

/// One load: the configuration in force and what was found.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The configuration.
    pub snapshot: Arc<Snapshot>,
    /// What was found.
    pub report: Arc<Report>,
}

/// What takes changes in.
pub(crate) trait Source: Send + 'static {
    /// One change.
    type Change: Send + 'static;

    /// Takes a burst in, which may be empty; what is in force now, if that is something else. Blocks.
    fn take(&mut self, burst: Vec<Self::Change>) -> Option<Loaded>;
}

/// Takes changes in until nobody listens or none can come any more. Where changes may be missed, the source is asked `again`
/// and again.
pub(crate) async fn follow<S: Source>(
    mut source: S,
    mut changes: impl Stream<Item = S::Change> + Unpin,
    again: Option<Duration>,
    sender: watch::Sender<Loaded>,
) {
    loop {
        let mut burst = Vec::new();
        let again = async {
            match again {
                Some(after) => tokio::time::sleep(after).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sender.closed() => return,
            () = again => {}
            change = changes.next() => match change {
                Some(change) => burst.push(change),
                None => return,
            }
        }
        let longest = Instant::now() + LONGEST;
        while let Ok(Some(change)) =
            tokio::time::timeout_at(longest.min(Instant::now() + QUIET), changes.next()).await
        {
            burst.push(change);
            if Instant::now() >= longest {
                break;
            }
        }
        // Files and compilation block, and this may be the thread that serves traffic.
        let taken = tokio::task::spawn_blocking(move || {
            let loaded = source.take(burst);
            (source, loaded)
        });
        let Ok((returned, loaded)) = taken.await else {
            tracing::error!(
                "the configuration reader failed, the last configuration stays in force for good"
            );
            return;
        };
        source = returned;
        if let Some(loaded) = loaded {
            // Whoever has the role says what is in force.
            tracing::debug!(
                version = loaded.snapshot.version,
                objects = loaded.report.objects,
                problems = loaded.report.problems.len(),
                "configuration reloaded"
            );
            sender.send_replace(loaded);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::sync::{mpsc, watch};
    use tokio_stream::wrappers::UnboundedReceiverStream;

    use super::{Loaded, Report, Source, follow};
    use crate::mesh::Snapshot;

    /// Counts: the version is the number of changes, the objects are the number of bursts.
    #[derive(Default)]
    struct Counting(u64, usize);

    impl Source for Counting {
        type Change = ();

        fn take(&mut self, burst: Vec<()>) -> Option<Loaded> {
            self.0 += u64::try_from(burst.len()).unwrap();
            self.1 += 1;
            Some(Loaded {
                snapshot: Arc::new(Snapshot { version: self.0, ..Snapshot::default() }),
                report: Arc::new(Report { objects: self.1, ..Report::default() }),
            })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_taken_in_once_and_one_without_an_end_in_time() {
        let (changes, receiver) = mpsc::unbounded_channel();
        let (sender, mut loaded) = watch::channel(Loaded::default());
        tokio::spawn(follow(Counting::default(), UnboundedReceiverStream::new(receiver), None, sender));
        for _ in 0..10_000 {
            changes.send(()).unwrap();
        }
        loaded.changed().await.unwrap();
        let now = loaded.borrow_and_update().clone();
        assert_eq!((now.snapshot.version, now.report.objects), (10_000, 1));
        // Never quiet.
        for _ in 0..200 {
            changes.send(()).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let now = loaded.borrow_and_update().clone();
        assert!(now.snapshot.version > 10_100, "{}", now.snapshot.version);
        assert!((5..20).contains(&now.report.objects), "{}", now.report.objects);
    }
}
