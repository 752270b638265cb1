//! Which gateway carries a new tunnel. Pure: [`super::gateways`] knows the gateways, [`super::pool`] the tunnels.
//!
//! Every pool has an order of the gateways of its own (rendezvous hashing by its seed), and shares its tunnels out among the first two
//! of them by which has fewer; a pool with many tunnels takes more gateways. So workloads spread over all replicas, none keeps a
//! connection to each, and a replica that comes or goes moves only its own share.

use std::{
    cmp::Reverse,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::SocketAddr,
};

/// How many gateways a pool with few tunnels uses: one that ends or fails leaves another that is connected.
const FEW: usize = 2;

/// With so many tunnels more, a pool takes one more gateway.
const TUNNELS_PER_GATEWAY: usize = 64;

/// What is to be expected of a gateway, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Prospect {
    /// It serves.
    Good,
    /// It is ending. Better than nothing: it serves until its agents have heard of it.
    Ending,
    /// It failed a short time ago. Tried when there is no other.
    Failing,
}

/// A gateway that may be asked.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) address: SocketAddr,
    pub(super) prospect: Prospect,
    /// Tunnels that the pool has there.
    pub(super) tunnels: usize,
}

/// The one to ask next; `None` when there is none.
pub(super) fn choose(candidates: &[Candidate], seed: u64) -> Option<SocketAddr> {
    let best = candidates.iter().map(|candidate| candidate.prospect).min()?;
    let tunnels: usize = candidates.iter().map(|candidate| candidate.tunnels).sum();
    let mut ranked: Vec<_> = candidates.iter().filter(|candidate| candidate.prospect == best).collect();
    ranked.sort_by_cached_key(|candidate| Reverse(rank(seed, candidate.address)));
    ranked.truncate(FEW + tunnels / TUNNELS_PER_GATEWAY);
    // Of equal ones the first: a pool with one tunnel at a time needs one connection.
    ranked.into_iter().min_by_key(|candidate| candidate.tunnels).map(|candidate| candidate.address)
}

/// How much of the time that is left the chosen one gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// A moment: another is as good.
    Moment,
    /// Half: the others are worse, and one that is slow under load is better than one that is gone.
    Half,
    /// All: there is no other.
    All,
}

/// How long to wait for the chosen one of these.
pub(super) fn patience(candidates: &[Candidate], chosen: SocketAddr) -> Patience {
    let prospect =
        candidates.iter().find(|candidate| candidate.address == chosen).map(|found| found.prospect);
    let others = || candidates.iter().filter(|candidate| candidate.address != chosen);
    if others().next().is_none() {
        Patience::All
    } else if others().any(|other| Some(other.prospect) <= prospect) {
        Patience::Moment
    } else {
        Patience::Half
    }
}

fn rank(seed: u64, address: SocketAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, address).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 15008))
    }

    fn good(n: u8, tunnels: usize) -> Candidate {
        Candidate { address: address(n), prospect: Prospect::Good, tunnels }
    }

    /// Opens `count` tunnels that stay, and says how many each gateway got.
    fn open(candidates: &mut [Candidate], seed: u64, count: usize) -> HashMap<SocketAddr, usize> {
        for _ in 0..count {
            let chosen = choose(candidates, seed).unwrap();
            candidates.iter_mut().find(|candidate| candidate.address == chosen).unwrap().tunnels += 1;
        }
        candidates.iter().map(|candidate| (candidate.address, candidate.tunnels)).collect()
    }

    #[test]
    fn nobody_is_chosen_among_none() {
        assert_eq!(choose(&[], 1), None);
    }

    #[test]
    fn a_workload_with_few_tunnels_uses_two_gateways_evenly() {
        let mut gateways: Vec<_> = (0..5).map(|n| good(n, 0)).collect();
        let mut got: Vec<_> = open(&mut gateways, 7, 10).into_values().collect();
        got.sort_unstable();
        assert_eq!(got, [0, 0, 0, 5, 5]);
    }

    #[test]
    fn one_with_many_spreads_over_all() {
        let mut gateways: Vec<_> = (0..5).map(|n| good(n, 0)).collect();
        assert!(open(&mut gateways, 7, 1000).into_values().all(|tunnels| tunnels == 200));
    }

    #[test]
    fn one_tunnel_after_the_other_uses_one_gateway() {
        let gateways: Vec<_> = (0..5).map(|n| good(n, 0)).collect();
        let chosen: HashSet<_> = (0..10).map(|_| choose(&gateways, 7)).collect();
        assert_eq!(chosen.len(), 1);
    }

    #[test]
    fn one_that_is_slow_is_given_more_time_than_one_that_is_gone() {
        let failing = Candidate { prospect: Prospect::Failing, ..good(2, 0) };
        assert_eq!(patience(&[good(1, 0)], address(1)), Patience::All);
        assert_eq!(patience(&[good(1, 0), good(2, 0)], address(1)), Patience::Moment);
        assert_eq!(patience(&[good(1, 0), failing.clone()], address(1)), Patience::Half);
        assert_eq!(patience(&[good(1, 0), failing], address(2)), Patience::Moment);
    }

    #[test]
    fn many_workloads_use_all_gateways() {
        let gateways: Vec<_> = (0..4).map(|n| good(n, 0)).collect();
        let mut chosen = HashMap::<_, usize>::new();
        for seed in 0..1000 {
            *chosen.entry(choose(&gateways, seed).unwrap()).or_default() += 1;
        }
        // 250 each if it were exact.
        assert!(chosen.len() == 4 && chosen.values().all(|count| (150..350).contains(count)), "{chosen:?}");
    }

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let prospect = prop_oneof![Just(Prospect::Good), Just(Prospect::Ending), Just(Prospect::Failing)];
        prop::collection::btree_map(any::<u8>(), (prospect, 0..500_usize), 1..12).prop_map(|all| {
            all.into_iter()
                .map(|(n, (prospect, tunnels))| Candidate { address: address(n), prospect, tunnels })
                .collect()
        })
    }

    proptest! {
        /// Whoever there is, somebody is asked, and nobody worse than the best.
        #[test]
        fn the_best_prospect_wins(candidates in candidates(), seed in any::<u64>()) {
            let chosen = choose(&candidates, seed).unwrap();
            let best = candidates.iter().map(|candidate| candidate.prospect).min();
            let chosen = candidates.iter().find(|candidate| candidate.address == chosen).unwrap();
            prop_assert_eq!(Some(chosen.prospect), best);
        }

        /// The choice does not depend on the order in which gateways were heard of.
        #[test]
        fn order_does_not_matter(candidates in candidates(), seed in any::<u64>()) {
            let mut reversed = candidates.clone();
            reversed.reverse();
            prop_assert_eq!(choose(&candidates, seed), choose(&reversed, seed));
        }

        /// One that goes and was not chosen changes nothing.
        #[test]
        fn only_the_share_of_one_that_goes_moves(n in 3..10_u8, seed in any::<u64>(), goes in any::<prop::sample::Index>()) {
            let mut gateways: Vec<_> = (0..n).map(|n| good(n, 0)).collect();
            let before = choose(&gateways, seed).unwrap();
            let gone = gateways.remove(goes.index(usize::from(n))).address;
            prop_assert!(gone == before || choose(&gateways, seed) == Some(before));
        }
    }
}
