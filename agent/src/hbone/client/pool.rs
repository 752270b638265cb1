//! Which connection carries a new tunnel, and what is tried when that fails. Connections are made by one task per key, for all who
//! wait, and never under the lock; whoever gives up waiting does not stop it.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use super::{
    Dial, Error, Gateway, Gateways,
    choice::{Patience, choose, patience},
    connection::{Again, Connection, OpenError, StreamPermit, establish},
    gateways::Counted,
};
use crate::{
    hbone::{
        headers::Connect,
        settings::{CONNECT_TIMEOUT, OPEN_TIMEOUT, PATIENCE},
        tunnel::Tunnel,
    },
    tls::certificate::WorkloadCertificate,
    workers,
};

/// How often a tunnel is tried again when its connection ended under it.
const MAX_RETRIES: usize = 3;

/// Connections are shared only by tunnels with the same certificate (by its number: a rotated one is another) and gateway, and within
/// one worker.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    worker: usize,
    certificate: u64,
    gateway: Gateway,
}

impl Key {
    fn new(certificate: &WorkloadCertificate, gateway: Gateway) -> Self {
        Self { worker: workers::index(), certificate: certificate.number(), gateway }
    }
}

/// `None` while the connection is being made.
type Outcome = Option<Result<(), Arc<Error>>>;

#[derive(Default)]
struct Slot {
    /// Connections with the number that tells them apart.
    connections: Vec<(u64, Connection)>,
    /// The one that is being made.
    dialling: Option<watch::Receiver<Outcome>>,
}

#[derive(Default)]
struct Slots {
    by_key: HashMap<Key, Slot>,
    next_number: u64,
}

pub(super) struct Inner {
    dial: Arc<dyn Dial>,
    /// The pool's own order of gateways.
    seed: u64,
    slots: Mutex<Slots>,
}

/// What a look at the pool gave.
enum Choice {
    Use(Connection, StreamPermit),
    Wait(watch::Receiver<Outcome>),
}

impl Inner {
    pub(super) fn new(dial: Arc<dyn Dial>) -> Self {
        Self { dial, seed: rand::random(), slots: Mutex::default() }
    }

    pub(super) async fn open(
        self: &Arc<Self>,
        certificate: &Arc<WorkloadCertificate>,
        gateways: &Arc<Gateways>,
        connect: &Connect,
    ) -> Result<Tunnel, Error> {
        let deadline = Instant::now() + OPEN_TIMEOUT;
        // Those that are not asked again, and those that are only if there is no other.
        let (mut given_up, mut ended) = (Vec::new(), Vec::new());
        let mut last = Error::NoGateway;
        loop {
            let candidates = gateways.candidates(&given_up, |gateway| self.tunnels(certificate, gateway));
            let others: Vec<_> =
                candidates.iter().filter(|candidate| !ended.contains(&candidate.address)).cloned().collect();
            let chosen = choose(&others, self.seed).or_else(|| choose(&candidates, self.seed));
            let Some(address) = chosen else { return Err(last) };
            let started = Instant::now();
            let until = match patience(&candidates, address) {
                Patience::Moment => deadline.min(started + PATIENCE),
                Patience::Half => started + deadline.saturating_duration_since(started) / 2,
                Patience::All => deadline,
            };
            let attempt = timeout_at(until, self.attempt(certificate, gateways, address, connect)).await;
            let failed = match attempt {
                Ok(Ok(tunnel)) => {
                    gateways.succeeded(address);
                    return Ok(tunnel);
                }
                Ok(Err(failed)) => failed,
                Err(_) => OpenError { error: Error::Timeout(address), again: Again::Elsewhere },
            };
            match failed.again {
                Again::Never => return Err(failed.error),
                Again::Anywhere if ended.len() < MAX_RETRIES => ended.push(address),
                Again::Anywhere | Again::Elsewhere => {
                    gateways.failed(address, started, &failed.error);
                    given_up.push(address);
                }
            }
            if Instant::now() >= deadline {
                return Err(failed.error);
            }
            tracing::debug!(gateway = %address, "tunnel not opened, trying again: {}", failed.error);
            last = failed.error;
        }
    }

    /// The tunnels over connections with this certificate to this gateway.
    fn tunnels(&self, certificate: &WorkloadCertificate, gateway: &Gateway) -> usize {
        let key = Key::new(certificate, gateway.clone());
        let slots = self.slots.lock();
        let connections = slots.by_key.get(&key).into_iter().flat_map(|slot| &slot.connections);
        connections.map(|(_, connection)| connection.streams()).sum()
    }

    /// Asks one gateway.
    async fn attempt(
        self: &Arc<Self>,
        certificate: &Arc<WorkloadCertificate>,
        gateways: &Arc<Gateways>,
        address: SocketAddr,
        connect: &Connect,
    ) -> Result<Tunnel, OpenError> {
        let key = Key::new(certificate, gateways.at(address));
        let mut reused = true;
        loop {
            match self.choose(&key, certificate, gateways) {
                Choice::Use(connection, permit) => {
                    return connection.open(permit, reused, &key.gateway, connect).await;
                }
                Choice::Wait(mut outcome) => {
                    let outcome = match outcome.wait_for(Option::is_some).await {
                        Ok(outcome) => outcome.clone(),
                        // The task that made it panicked; nothing is known of the gateway.
                        Err(_) => None,
                    };
                    let error = match outcome {
                        Some(Ok(())) => {
                            reused = false;
                            continue;
                        }
                        Some(Err(error)) => share(&error),
                        None => Error::Timeout(address),
                    };
                    return Err(OpenError { error, again: Again::Elsewhere });
                }
            }
        }
    }

    /// A connection with room, or the one to wait for.
    fn choose(
        self: &Arc<Self>,
        key: &Key,
        certificate: &Arc<WorkloadCertificate>,
        gateways: &Arc<Gateways>,
    ) -> Choice {
        let mut slots = self.slots.lock();
        let slots = &mut *slots;
        let slot = slots.by_key.entry(key.clone()).or_default();
        slot.connections.retain(|(_, connection)| !connection.is_over());
        for (_, connection) in &slot.connections {
            if let Some(permit) = connection.acquire() {
                return Choice::Use(connection.clone(), permit);
            }
        }
        // A sender that is gone without an outcome panicked.
        if let Some(outcome) = slot.dialling.as_ref().filter(|outcome| outcome.has_changed().is_ok()) {
            return Choice::Wait(outcome.clone());
        }
        let (sender, outcome) = watch::channel(None);
        slot.dialling = Some(outcome.clone());
        let number = slots.next_number;
        slots.next_number += 1;
        let counted = gateways.connection(key.gateway.address);
        tokio::spawn(connect_for(
            Arc::clone(self),
            key.clone(),
            Arc::clone(certificate),
            number,
            counted,
            sender,
        ));
        Choice::Wait(outcome)
    }

    /// Forgets a connection that ended, and the slot when it was its last.
    fn remove(&self, key: &Key, number: u64) {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.by_key.get_mut(key) {
            slot.connections.retain(|(n, _)| *n != number);
            if slot.connections.is_empty() && slot.dialling.is_none() {
                slots.by_key.remove(key);
            }
        }
    }
}

async fn connect_for(
    pool: Arc<Inner>,
    key: Key,
    certificate: Arc<WorkloadCertificate>,
    number: u64,
    counted: Counted,
    outcome: watch::Sender<Outcome>,
) {
    let ended = {
        // Weak: a pool that is dropped lets its connections end after their last stream.
        let (pool, key): (Weak<Inner>, Key) = (Arc::downgrade(&pool), key.clone());
        move || {
            drop(counted);
            if let Some(pool) = pool.upgrade() {
                pool.remove(&key, number);
            }
        }
    };
    let made = timeout(CONNECT_TIMEOUT, establish(&*pool.dial, &certificate, &key.gateway, ended)).await;
    let made = made.unwrap_or(Err(Error::Timeout(key.gateway.address)));
    let result = {
        let mut slots = pool.slots.lock();
        let slot = slots.by_key.entry(key.clone()).or_default();
        slot.dialling = None;
        let result = match made {
            // It says GOAWAY with its first breath; to dial again at once would only repeat that.
            Ok(connection) if connection.is_over() => {
                let error = io::Error::other("it is shutting down");
                Err(Arc::new(Error::Dial(key.gateway.address, error)))
            }
            Ok(connection) => {
                slot.connections.push((number, connection));
                Ok(())
            }
            Err(e) => Err(Arc::new(e)),
        };
        if slot.connections.is_empty() {
            slots.by_key.remove(&key);
        }
        result
    };
    outcome.send_replace(Some(result));
}

/// The same error for everyone who waited for the connection.
fn share(error: &Arc<Error>) -> Error {
    let io = |e: &io::Error| io::Error::new(e.kind(), e.to_string());
    match &**error {
        Error::NoGateway => Error::NoGateway,
        Error::Dial(gateway, e) => Error::Dial(*gateway, io(e)),
        Error::Tls(gateway, e) => Error::Tls(*gateway, io(e)),
        Error::Http2(gateway, e) => {
            Error::Http2(*gateway, e.reason().unwrap_or(h2::Reason::INTERNAL_ERROR).into())
        }
        Error::Refused { gateway, status, detail } => {
            Error::Refused { gateway: *gateway, status: *status, detail: detail.clone() }
        }
        Error::Timeout(gateway) => Error::Timeout(*gateway),
    }
}
