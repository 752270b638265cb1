//! The state that the pure [`balance`](crate::balance) engine needs: whose turn it is, and who is busy.
//!
//! `upstream` asks for an order of endpoints, the forwarders say what is in flight. An upstream with one endpoint, which
//! is nearly all of them, touches none of it.

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

use parking_lot::Mutex;

use crate::{
    balance::{Rotation, pick},
    route::{LoadBalancer, Upstream},
};

/// The state of all upstreams of one gateway.
#[derive(Debug, Default)]
pub(super) struct Balancer {
    /// By cluster; as many as the configuration has, or ever had.
    rotations: Mutex<HashMap<Arc<str>, Rotation>>,
    in_flight: Mutex<HashMap<SocketAddr, usize>>,
}

impl Balancer {
    /// `addresses` in the order in which they are to be tried: the picked one first, then those after it.
    pub(super) fn order(&self, upstream: &Upstream, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        if addresses.len() < 2 {
            return addresses.to_vec();
        }
        let draw = |n| rand::random_range(0..n);
        let picked = match upstream.load_balancer {
            LoadBalancer::RoundRobin => {
                let mut rotations = self.rotations.lock();
                let rotation = rotations.entry(Arc::clone(&upstream.cluster)).or_default();
                pick(LoadBalancer::RoundRobin, addresses.len(), rotation, draw, |_| 0)
            }
            policy => {
                let in_flight = self.in_flight.lock();
                let load = |i: usize| in_flight.get(&addresses[i]).copied().unwrap_or(0);
                pick(policy, addresses.len(), &mut Rotation::default(), draw, load)
            }
        };
        let (before, from) = addresses.split_at(picked.unwrap_or(0));
        [from, before].concat()
    }

    /// Counts a request or connection at `address` until the guard is dropped.
    pub(super) fn start(self: &Arc<Self>, address: SocketAddr) -> InFlight {
        *self.in_flight.lock().entry(address).or_default() += 1;
        InFlight { balancer: Arc::clone(self), address }
    }
}

/// A request or connection that is not over yet.
#[derive(Debug)]
pub(super) struct InFlight {
    balancer: Arc<Balancer>,
    address: SocketAddr,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut in_flight = self.balancer.in_flight.lock();
        if let Some(count) = in_flight.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                in_flight.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::Arc};

    use super::Balancer;
    use crate::{gateway::testing::upstream, route::LoadBalancer};

    fn addresses() -> Vec<SocketAddr> {
        (1..=3).map(|port| SocketAddr::from(([203, 0, 113, 7], port))).collect()
    }

    #[test]
    fn turns_are_counted_per_upstream() {
        let (balancer, addresses) = (Balancer::default(), addresses());
        let a = upstream(addresses[0]);
        let mut b = a.clone();
        b.cluster = "outbound|80||other.com".into();
        let first: Vec<_> = (0..4)
            .map(|_| {
                balancer.order(&b, &addresses);
                balancer.order(&a, &addresses)[0].port()
            })
            .collect();
        assert_eq!(first, [1, 2, 3, 1]);
        assert_eq!(balancer.order(&a, &addresses), [addresses[1], addresses[2], addresses[0]]);
    }

    #[test]
    fn a_busy_endpoint_is_avoided_until_it_is_done() {
        let (balancer, addresses) = (Arc::new(Balancer::default()), addresses()[..2].to_vec());
        let mut upstream = upstream(addresses[0]);
        upstream.load_balancer = LoadBalancer::LeastRequest;
        let busy = balancer.start(addresses[0]);
        assert!((0..50).all(|_| balancer.order(&upstream, &addresses)[0] == addresses[1]));
        drop(busy);
        assert!(balancer.in_flight.lock().is_empty());
    }
}
