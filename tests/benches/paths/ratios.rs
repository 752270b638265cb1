//! What the figures are for: ratios between paths, and the bounds that Egret sets itself. Ratios are taken within each round, so
//! that what changes slowly on the machine does not count; then the median over the rounds, with the quartiles.

use egret_tests::quartiles::quartiles;
use serde_json::{Value, json};

use crate::{
    path::Path,
    results::{Results, Round},
};

/// What a figure should be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// So far from 1.
    Within(f64),
    /// To know it.
    None,
}

impl Bound {
    pub(crate) fn is_met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtMost(most) => Some(value <= most),
            Self::AtLeast(least) => Some(value >= least),
            Self::Within(distance) => Some((value - 1.0).abs() <= distance),
            Self::None => None,
        }
    }

    pub(crate) fn shown(self) -> String {
        match self {
            Self::AtMost(most) => format!("≤ {most}"),
            Self::AtLeast(least) => format!("≥ {least}"),
            Self::Within(distance) => format!("1 ± {distance}"),
            Self::None => String::new(),
        }
    }
}

/// How it is computed.
#[derive(Clone, Copy)]
enum Of {
    /// A figure of one path by that of another.
    Quotient(&'static str, Path, Path),
    /// What Egret adds to a figure without proxy, by what the Envoy pair adds to it.
    Added(&'static str),
    /// A figure of Egret's as it is.
    Figure(&'static str),
}

struct Goal {
    name: &'static str,
    of: Of,
    bound: Bound,
}

const fn to_envoy(name: &'static str, figure: &'static str, bound: Bound) -> Goal {
    Goal { name, of: Of::Quotient(figure, Path::Egret, Path::EnvoyPair), bound }
}

const CPU: &str = "cpu_s_per_10k_requests_at_32";

const GOALS: [Goal; 14] = [
    to_envoy("cpu_per_request_vs_envoy_pair", CPU, Bound::AtMost(0.25)),
    to_envoy(
        "cpu_per_request_at_1000_rps_vs_envoy_pair",
        "cpu_s_per_10k_requests_at_1000_rps",
        Bound::AtMost(0.28),
    ),
    Goal {
        name: "cpu_per_request_with_large_config_vs_small",
        of: Of::Quotient(CPU, Path::EgretLarge, Path::Egret),
        bound: Bound::Within(0.05),
    },
    Goal {
        name: "cpu_per_request_vs_nginx_hop",
        of: Of::Quotient(CPU, Path::Egret, Path::NginxHop),
        bound: Bound::None,
    },
    Goal {
        name: "added_p99_at_1000_rps_vs_envoy_pair",
        of: Of::Added("p99_ms_at_1000_rps"),
        bound: Bound::AtMost(0.45),
    },
    to_envoy("new_connections_per_s_vs_envoy_pair", "new_connections_per_s", Bound::AtLeast(1.6)),
    to_envoy("cpu_per_new_connection_vs_envoy_pair", "cpu_s_per_10k_new_connections", Bound::AtMost(0.6)),
    to_envoy("cpu_per_gib_down_vs_envoy_pair", "down_cpu_s_per_gib", Bound::AtMost(0.8)),
    to_envoy("cpu_per_gib_up_vs_envoy_pair", "up_cpu_s_per_gib", Bound::AtMost(0.8)),
    Goal {
        name: "throughput_down_vs_direct_mtls",
        of: Of::Quotient("down_mib_per_s", Path::Egret, Path::DirectTls),
        bound: Bound::AtLeast(0.8),
    },
    Goal {
        name: "throughput_up_vs_direct_mtls",
        of: Of::Quotient("up_mib_per_s", Path::Egret, Path::DirectTls),
        bound: Bound::AtLeast(0.8),
    },
    to_envoy("memory_at_10000_flows_vs_envoy_pair", "rss_mib_at_10000_flows", Bound::None),
    Goal { name: "rss_mib_idle", of: Of::Figure("rss_mib_at_0_flows"), bound: Bound::AtMost(30.0) },
    Goal {
        name: "rss_mib_at_10000_flows",
        of: Of::Figure("rss_mib_at_10000_flows"),
        bound: Bound::AtMost(100.0),
    },
];

/// One of them, measured.
pub(crate) struct Reached {
    pub(crate) name: &'static str,
    pub(crate) quartiles: [f64; 3],
    pub(crate) bound: Bound,
    is_ratio: bool,
}

/// Those whose figures were measured.
pub(crate) fn reached(results: &Results) -> Vec<Reached> {
    let one = |goal: &Goal| {
        let mut values: Vec<f64> = results.rounds().iter().filter_map(|round| goal.of.value(round)).collect();
        let is_ratio = !matches!(goal.of, Of::Figure(_));
        (!values.is_empty()).then(|| Reached {
            name: goal.name,
            quartiles: quartiles(&mut values),
            bound: goal.bound,
            is_ratio,
        })
    };
    GOALS.iter().filter_map(one).collect()
}

/// For the summary: the medians of the ratios by name, and all in detail.
pub(crate) fn summary(reached: &[Reached]) -> (Value, Value) {
    let ratios = reached.iter().filter(|reached| reached.is_ratio);
    let ratios = ratios.map(|reached| (reached.name.to_owned(), reached.quartiles[1].into()));
    let detail = reached.iter().map(|reached| {
        let [low, middle, high] = reached.quartiles;
        json!({
            "name": reached.name, "median": middle, "lower_quartile": low, "upper_quartile": high,
            "goal": reached.bound.shown(), "met": reached.bound.is_met(middle),
        })
    });
    (Value::Object(ratios.collect()), detail.collect())
}

impl Of {
    fn value(self, round: &Round) -> Option<f64> {
        let figure = |path: Path, name: &str| round.get(&path)?.get(name).copied();
        match self {
            Self::Quotient(name, one, other) => Some(figure(one, name)? / figure(other, name)?),
            Self::Added(name) => {
                let without = figure(Path::NoProxy, name)?;
                let (ours, theirs) =
                    (figure(Path::Egret, name)? - without, figure(Path::EnvoyPair, name)? - without);
                // Nothing to compare with, when a stall of the machine hit the baseline.
                (theirs > 0.0).then_some(ours / theirs)
            }
            Self::Figure(name) => figure(Path::Egret, name),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::{Bound, reached, summary};
    use crate::{path::Path, results::Results};

    fn results(rounds: &[[f64; 3]]) -> Results {
        let mut results = Results::new(Value::Null, true);
        for values in rounds {
            let paths = [Path::NoProxy, Path::Egret, Path::EnvoyPair];
            let figures = |value: f64| BTreeMap::from([("p99_ms_at_1000_rps".to_owned(), value)]);
            results.add(paths.into_iter().zip(values.iter().map(|value| figures(*value))).collect());
        }
        results
    }

    #[test]
    fn what_is_added_is_compared_within_each_round() {
        // The second round is of a machine ten times as slow; in the third one the baseline was hit.
        let results = results(&[[1.0, 2.0, 5.0], [10.0, 20.0, 50.0], [9.0, 2.0, 5.0]]);
        let reached = reached(&results);
        let [only] = &reached[..] else { panic!("{}", reached.len()) };
        assert_eq!(only.name, "added_p99_at_1000_rps_vs_envoy_pair");
        assert_eq!(only.quartiles.map(f64::to_bits), [0.25_f64; 3].map(f64::to_bits));
        assert_eq!(summary(&reached).0["added_p99_at_1000_rps_vs_envoy_pair"], 0.25);
        assert_eq!(summary(&reached).1[0]["met"], true);
    }

    #[test]
    fn a_path_that_failed_has_no_ratios() {
        let mut results = results(&[[1.0, 2.0, 5.0]]);
        results.fail(Path::EnvoyPair, &anyhow::anyhow!("status 503"));
        assert!(reached(&results).is_empty());
        assert_eq!(results.summary()["paths"]["envoy_pair"]["failed"], "status 503");
    }

    #[test]
    fn bounds_hold_up_to_their_end() {
        assert_eq!(Bound::AtMost(0.25).is_met(0.25), Some(true));
        assert_eq!(Bound::AtLeast(1.6).is_met(1.5), Some(false));
        assert_eq!(Bound::Within(0.05).is_met(0.94), Some(false));
        assert_eq!(Bound::None.is_met(7.0), None);
    }
}
