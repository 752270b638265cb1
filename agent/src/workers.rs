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
    /// The CPU it is kept on.
    cpu: Option<usize>,
    busy: Arc<AtomicUsize>,
}

impl Worker {
    fn of(runtime: Handle, cpu: Option<usize>) -> Self {
        Self { runtime, cpu, busy: Arc::default() }
    }

    fn places(&self) -> usize {
        self.busy.load(Relaxed)
    }
}

/// How many places more than others a worker may have that is near to where bytes come in.
const NEAR: usize = 2;

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

impl Workers {
    /// Starts `count` of them, one at least. They end when this is dropped, with what still runs on them. If there are as many as
    /// CPUs, each is kept on one of its own, as far as that does no harm (`affinity`).
    pub fn start(count: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        // Not known where there are more than a thousand.
        let cpus = affinity::allowed().unwrap_or_default();
        let own = count > 1 && count == cpus.len();
        let start = |index| {
            let anywhere = cpus.clone();
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .on_thread_park(affinity::look)
                // The pool's threads inherit where the worker happens to be kept.
                .on_thread_start(move || {
                    if own && let Err(error) = affinity::run_on(&anywhere) {
                        tracing::debug!(%error, "a thread stays on one CPU");
                    }
                })
                .build()?;
            let (handle, stop, cpus) = (runtime.handle().clone(), stop.clone(), cpus.clone());
            let cpu = own.then(|| cpus[index]);
            thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                INDEX.set(index);
                if let Some(cpu) = cpu
                    && let Err(error) = affinity::keep(cpu, cpus)
                {
                    tracing::debug!(%error, cpu, "a worker is not kept on its CPU");
                }
                runtime.spawn(memory::give_back());
                runtime.block_on(stop.cancelled());
            })?;
            Ok(Worker::of(handle, cpu))
        };
        let workers = (0..count.max(1)).map(start).collect::<io::Result<_>>()?;
        Ok(Self { workers, _stop: Some(stop.drop_guard()) })
    }

    /// The runtime of the caller alone.
    #[cfg(test)]
    pub(crate) fn here() -> Self {
        Self { workers: vec![Worker::of(Handle::current(), None)], _stop: None }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.workers.len()
    }

    /// The runtime of the `n`th, counted round and round.
    pub fn nth(&self, n: usize) -> &Handle {
        &self.workers[n % self.workers.len()].runtime
    }

    /// A place on the one that has the fewest, or on the one that is kept on `cpu`, where bytes come in, unless it has many more.
    pub fn place(&self, cpu: Option<usize>) -> Place {
        let least = self.workers.iter().min_by_key(|worker| worker.places()).unwrap_or(&self.workers[0]);
        let near = self.workers.iter().find(|worker| cpu.is_some() && worker.cpu == cpu);
        let near = near.filter(|worker| worker.places() <= least.places() + NEAR);
        let Worker { runtime, busy, .. } = near.unwrap_or(least);
        busy.fetch_add(1, Relaxed);
        Place { runtime: runtime.clone(), busy: Arc::clone(busy) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Workers, index};

    #[tokio::test]
    async fn what_is_put_on_a_worker_stays_there_and_places_are_spread() {
        let workers = Workers::start(2).unwrap();
        let places: Vec<_> = (0..4).map(|_| workers.place(None)).collect();
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
        let _first = workers.place(None);
        let freed = workers.place(None);
        assert_eq!(freed.runtime.spawn(async { index() }).await.unwrap(), 1);
    }

    #[tokio::test]
    async fn a_place_is_where_bytes_come_in_unless_that_is_crowded() {
        let mut workers = Workers::start(2).unwrap();
        for (number, worker) in workers.workers.iter_mut().enumerate() {
            worker.cpu = Some(number);
        }
        let mut places = Vec::new();
        let mut at = |cpu| {
            places.push(workers.place(cpu));
            let busy = &places.last().unwrap().busy;
            workers.workers.iter().position(|worker| Arc::ptr_eq(&worker.busy, busy)).unwrap()
        };
        assert_eq!([Some(1), Some(1), Some(1), Some(1)].map(&mut at), [1, 1, 1, 0]);
        assert_eq!([Some(7), None].map(at), [0, 0], "nobody is kept there");
    }
}
