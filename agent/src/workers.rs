//! The threads that carry bytes, each with a runtime of its own: what begins on one ends there, and no byte waits for another thread.
//!
//! `gateway` puts every tunnel connection on one of them, `node` every listener, with everything that follows: streams, requests,
//! upstream connections. Everything else (configuration, certificates, questions of operators) runs elsewhere and never holds them up.

mod affinity;

use std::{
    cell::Cell,
    io,
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

use tokio::runtime::{self, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::memory;

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// Which of them this thread is; 0 on others. What workers do not share is kept by this number.
pub fn index() -> usize {
    INDEX.get()
}

/// CPUs that this process may use.
pub fn cpus() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// The workers of a process.
#[derive(Debug)]
pub struct Workers {
    /// Never none.
    workers: Vec<Worker>,
    _stop: Option<DropGuard>,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    busy: Arc<AtomicUsize>,
}

impl Worker {
    fn of(runtime: Handle) -> Self {
        Self { runtime, busy: Arc::default() }
    }
}

/// A place on a worker, counted until it is dropped.
#[derive(Debug)]
pub struct Place {
    /// The worker's runtime.
    pub runtime: Handle,
    busy: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.busy.fetch_sub(1, Relaxed);
    }
}

/// Where the other end of the tunnels is, which wakes workers and is woken by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnels {
    /// A process of this machine.
    Local,
    /// Nobody knows.
    Anywhere,
}

/// Where a thread runs is a matter of cost alone.
fn noted(placed: io::Result<()>) {
    if let Err(error) = placed {
        tracing::debug!(%error, "threads run where the scheduler puts them");
    }
}

impl Workers {
    /// Starts `count` of them, one at least. They end when this is dropped, with what still runs on them. With [`Tunnels::Local`] they
    /// share a CPU with the other end's as long as that does no harm (`affinity`).
    pub fn start(count: usize, tunnels: Tunnels) -> io::Result<Self> {
        let stop = CancellationToken::new();
        // Not known where there are more than a thousand.
        let allowed = affinity::allowed().unwrap_or_default();
        // The same for both ends; the first is everybody's.
        let shared = allowed.last().copied().filter(|_| tunnels == Tunnels::Local && allowed.len() > 1);
        let start = |index| {
            let anywhere = allowed.clone();
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                // The pool's threads inherit where the worker happens to be kept.
                .on_thread_start(move || {
                    if shared.is_some() {
                        noted(affinity::run_on(&anywhere));
                    }
                })
                .build()?;
            let (handle, stop, allowed) = (runtime.handle().clone(), stop.clone(), allowed.clone());
            thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                INDEX.set(index);
                if let Some(cpu) = shared {
                    noted(affinity::keep(cpu, allowed));
                }
                runtime.spawn(affinity::watch());
                runtime.spawn(memory::give_back());
                runtime.block_on(stop.cancelled());
            })?;
            Ok(Worker::of(handle))
        };
        let workers = (0..count.max(1)).map(start).collect::<io::Result<_>>()?;
        Ok(Self { workers, _stop: Some(stop.drop_guard()) })
    }

    /// The runtime of the caller alone.
    #[cfg(test)]
    pub(crate) fn here() -> Self {
        Self { workers: vec![Worker::of(Handle::current())], _stop: None }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.workers.len()
    }

    /// The runtime of the `n`th, counted round and round.
    pub fn nth(&self, n: usize) -> &Handle {
        &self.workers[n % self.workers.len()].runtime
    }

    /// A place on the one that has the fewest.
    pub fn place(&self) -> Place {
        let least = self.workers.iter().min_by_key(|worker| worker.busy.load(Relaxed));
        let Worker { runtime, busy } = least.unwrap_or(&self.workers[0]);
        busy.fetch_add(1, Relaxed);
        Place { runtime: runtime.clone(), busy: Arc::clone(busy) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Tunnels, Workers, index};

    #[tokio::test]
    async fn what_is_put_on_a_worker_stays_there_and_places_are_spread() {
        let workers = Workers::start(2, Tunnels::Anywhere).unwrap();
        let places: Vec<_> = (0..4).map(|_| workers.place()).collect();
        let mut at = Vec::new();
        for place in &places {
            let task = place.runtime.spawn(async {
                let inner = tokio::spawn(async { index() });
                (index(), inner.await.unwrap())
            });
            let (outer, inner) = task.await.unwrap();
            assert_eq!(outer, inner);
            at.push(outer);
        }
        assert_eq!(at, [0, 1, 0, 1]);
        drop(places);
        let _first = workers.place();
        let freed = workers.place();
        assert_eq!(freed.runtime.spawn(async { index() }).await.unwrap(), 1);
    }
}
