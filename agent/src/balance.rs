//! Picks one of several endpoints. Pure: whoever calls brings the state of the rotation, chance and the load.
//!
//! Called by the gateway's upstream pool for each new request or connection. Knows neither addresses nor health.

use crate::route::LoadBalancer;

/// Position of the rotation of one upstream; starts anywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation(pub usize);

/// Picks one of `count` endpoints; `None` when there is none.
///
/// `draw(n)` gives a number below `n`, evenly. `load(i)` is the number of requests that endpoint `i` has in flight.
/// `LeastRequest` takes the less loaded of two drawn ones (Mitzenmacher's power of two choices, Istio's default).
pub fn pick(
    policy: LoadBalancer,
    count: usize,
    rotation: &mut Rotation,
    mut draw: impl FnMut(usize) -> usize,
    load: impl Fn(usize) -> usize,
) -> Option<usize> {
    match (policy, count) {
        (_, 0) => None,
        (_, 1) => Some(0),
        (LoadBalancer::RoundRobin, _) => {
            let picked = rotation.0 % count;
            rotation.0 = (picked + 1) % count;
            Some(picked)
        }
        (LoadBalancer::Random, _) => Some(draw(count)),
        (LoadBalancer::LeastRequest, _) => {
            let first = draw(count);
            // The second is another one: drawn from the rest.
            let second = (first + 1 + draw(count - 1)) % count;
            Some(if load(second) < load(first) { second } else { first })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Rotation, pick};
    use crate::route::LoadBalancer;

    #[test]
    fn round_robin_takes_turns_and_survives_a_change_of_count() {
        let mut rotation = Rotation::default();
        let mut next = |count| pick(LoadBalancer::RoundRobin, count, &mut rotation, |_| 0, |_| 0);
        let taken: Vec<_> = (0..4).map(|_| next(3).unwrap()).collect();
        assert_eq!(taken, [0, 1, 2, 0]);
        assert!(next(2).unwrap() < 2);
        assert_eq!(next(0), None);
    }

    #[test]
    fn least_request_takes_the_less_loaded_of_two() {
        let loads = [5, 1, 9];
        let mut draws = [0, 0].into_iter();
        let picked = pick(
            LoadBalancer::LeastRequest,
            3,
            &mut Rotation::default(),
            |_| draws.next().unwrap(),
            |i| loads[i],
        );
        assert_eq!(picked, Some(1));
    }

    proptest! {
        #[test]
        fn a_pick_is_always_one_of_them(count in 1_usize..9, start in any::<usize>(), seed in any::<usize>()) {
            for policy in [LoadBalancer::RoundRobin, LoadBalancer::Random, LoadBalancer::LeastRequest] {
                let picked = pick(policy, count, &mut Rotation(start), |n| seed % n, |i| i ^ seed);
                prop_assert!(picked.is_some_and(|picked| picked < count));
            }
        }

        #[test]
        fn least_request_of_two_never_takes_the_busier(seed in any::<usize>(), a in 0_usize..9, b in 0_usize..9) {
            let picked = pick(LoadBalancer::LeastRequest, 2, &mut Rotation::default(), |n| seed % n, |i| [a, b][i]);
            let loads = [a, b];
            prop_assert_eq!(loads[picked.unwrap()], a.min(b));
        }
    }
}
