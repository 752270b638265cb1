//! The egress gateways there are: one identity, at addresses that come and go. Remembers which of them failed, and which have
//! connections.
//!
//! The node agent has one set for all pools and keeps it current; [`super::pool`] asks it, and tells it how it went.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    Error, Gateway,
    choice::{Candidate, Prospect},
};
use crate::{
    mesh::SpiffeId,
    net::endpoints::{Condition, Endpoints},
};

/// How long a gateway is left alone after its first failure; doubles with every further one up to [`MAX_AVOIDANCE`].
const MIN_AVOIDANCE: Duration = Duration::from_millis(500);
const MAX_AVOIDANCE: Duration = Duration::from_secs(30);

/// A gateway, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayState {
    /// Where it is.
    pub address: SocketAddr,
    /// Whether it takes new tunnels, as far as is known.
    pub condition: Condition,
    /// Why no tunnel could be opened there the last time that one was tried.
    #[serde(default)]
    pub problem: Option<String>,
    /// Tunnel connections to it.
    pub connections: usize,
}

/// The egress gateways.
#[derive(Debug)]
pub struct Gateways {
    identity: SpiffeId,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    listed: Endpoints,
    failures: HashMap<SocketAddr, Failure>,
    connections: HashMap<SocketAddr, usize>,
}

#[derive(Debug)]
struct Failure {
    times: u32,
    at: Instant,
    avoided_until: Instant,
    why: String,
}

impl Gateways {
    /// Gateways with this identity; nobody knows yet where.
    pub fn new(identity: SpiffeId) -> Arc<Self> {
        Arc::new(Self { identity, known: Mutex::default() })
    }

    /// One, which is always there.
    pub fn only(gateway: Gateway) -> Arc<Self> {
        let gateways = Self::new(gateway.identity);
        gateways.set(Endpoints::from([(gateway.address, Condition::Ready)]));
        gateways
    }

    /// Takes over where they are now. Connections to others go on.
    pub fn set(&self, listed: Endpoints) {
        let mut known = self.known.lock();
        known.failures.retain(|address, _| listed.contains_key(address));
        known.listed = listed;
    }

    /// Those that are listed, and those that have connections.
    pub fn in_use(&self) -> BTreeSet<SocketAddr> {
        let known = self.known.lock();
        known.listed.keys().chain(known.connections.keys()).copied().collect()
    }

    /// Those that are listed, for people.
    pub fn states(&self) -> Vec<GatewayState> {
        let known = self.known.lock();
        let states = known.listed.iter().map(|(address, condition)| GatewayState {
            address: *address,
            condition: *condition,
            problem: known.failures.get(address).map(|failure| failure.why.clone()),
            connections: known.connections.get(address).copied().unwrap_or(0),
        });
        states.collect()
    }

    pub(super) fn at(&self, address: SocketAddr) -> Gateway {
        Gateway { address, identity: self.identity.clone() }
    }

    /// Those that may be asked, without those that were `given_up`.
    pub(super) fn candidates(
        &self,
        given_up: &[SocketAddr],
        tunnels: impl Fn(&Gateway) -> usize,
    ) -> Vec<Candidate> {
        let now = Instant::now();
        let prospects: Vec<_> = {
            let known = self.known.lock();
            let asked = known.listed.iter().filter(|(address, _)| !given_up.contains(address));
            let prospects = asked.map(|(address, condition)| {
                let failing = known.failures.get(address).is_some_and(|failure| now < failure.avoided_until);
                (*address, prospect(*condition, failing))
            });
            prospects.collect()
        };
        prospects
            .into_iter()
            .map(|(address, prospect)| Candidate { address, prospect, tunnels: tunnels(&self.at(address)) })
            .collect()
    }

    /// No tunnel could be opened there, by a try that began at `started`. Many tries that were under way together fail once.
    pub(super) fn failed(&self, address: SocketAddr, started: Instant, error: &Error) {
        let now = Instant::now();
        let mut known = self.known.lock();
        if !known.listed.contains_key(&address) {
            return;
        }
        let times = match known.failures.get(&address) {
            Some(failure) if started < failure.at => return,
            Some(failure) => failure.times.saturating_add(1),
            None => 1,
        };
        let why = error.to_string();
        let avoided = avoidance(times);
        if times == 1 {
            tracing::warn!(gateway = %address, "avoided for now: {why}");
        } else {
            tracing::debug!(gateway = %address, times, ?avoided, "still avoided: {why}");
        }
        known.failures.insert(address, Failure { times, at: now, avoided_until: now + avoided, why });
    }

    /// A tunnel was opened there.
    pub(super) fn succeeded(&self, address: SocketAddr) {
        if self.known.lock().failures.remove(&address).is_some() {
            tracing::info!(gateway = %address, "takes tunnels again");
        }
    }

    /// Counts a connection until the answer is dropped. To be called before it is dialled.
    pub(super) fn connection(self: &Arc<Self>, address: SocketAddr) -> Counted {
        *self.known.lock().connections.entry(address).or_default() += 1;
        Counted { gateways: Arc::clone(self), address }
    }
}

fn prospect(condition: Condition, failing: bool) -> Prospect {
    match (condition, failing) {
        (_, true) => Prospect::Failing,
        (Condition::Draining, false) => Prospect::Ending,
        (Condition::Ready, false) => Prospect::Good,
    }
}

fn avoidance(times: u32) -> Duration {
    MIN_AVOIDANCE.saturating_mul(2_u32.saturating_pow(times.saturating_sub(1))).min(MAX_AVOIDANCE)
}

/// A connection that counts.
#[derive(Debug)]
pub(super) struct Counted {
    gateways: Arc<Gateways>,
    address: SocketAddr,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut known = self.gateways.known.lock();
        if let Some(count) = known.connections.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                known.connections.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 15008))
    }

    fn gateways(listed: &[(u8, Condition)]) -> Arc<Gateways> {
        let gateways = Gateways::new("spiffe://td/ns/istio-system/sa/egress".parse().unwrap());
        gateways.set(listed.iter().map(|(n, condition)| (address(*n), *condition)).collect());
        gateways
    }

    fn prospects(gateways: &Gateways) -> Vec<Prospect> {
        gateways.candidates(&[], |_| 0).into_iter().map(|candidate| candidate.prospect).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_failed_is_avoided_for_a_time_that_grows() {
        let gateways = gateways(&[(1, Condition::Ready), (2, Condition::Draining)]);
        assert_eq!(prospects(&gateways), [Prospect::Good, Prospect::Ending]);
        let mut before = Duration::ZERO;
        for _ in 0..10 {
            gateways.failed(address(1), Instant::now(), &Error::Timeout(address(1)));
            let failed = Instant::now();
            while prospects(&gateways)[0] == Prospect::Failing {
                tokio::time::advance(Duration::from_millis(100)).await;
            }
            let avoided = failed.elapsed();
            assert!(avoided > before || avoided == MAX_AVOIDANCE, "{avoided:?} after {before:?}");
            assert!(avoided <= MAX_AVOIDANCE);
            before = avoided;
        }
        assert!(gateways.states()[0].problem.is_some());
        gateways.succeeded(address(1));
        assert_eq!(gateways.states()[0].problem, None);
    }

    #[tokio::test(start_paused = true)]
    async fn tries_that_fail_together_count_once() {
        let gateways = gateways(&[(1, Condition::Ready)]);
        let started = Instant::now();
        tokio::time::advance(Duration::from_secs(1)).await;
        for _ in 0..100 {
            gateways.failed(address(1), started, &Error::Timeout(address(1)));
        }
        tokio::time::advance(MIN_AVOIDANCE).await;
        assert_eq!(prospects(&gateways), [Prospect::Good]);
    }

    #[test]
    fn one_with_connections_is_in_use_although_it_is_listed_no_more() {
        let gateways = gateways(&[(1, Condition::Ready)]);
        let counted = gateways.connection(address(1));
        gateways.set(Endpoints::from([(address(2), Condition::Ready)]));
        assert_eq!(gateways.in_use(), BTreeSet::from([address(1), address(2)]));
        drop(counted);
        assert_eq!(gateways.in_use(), BTreeSet::from([address(2)]));
    }
}
