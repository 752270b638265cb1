//! Series by their labels, never more of them than a fixed number: what does not fit is counted in one series for all of it.
//!
//! Label values come from outside (namespaces, hosts, objects), and whoever makes them up must not make this process, nor the
//! Prometheus that asks it, run out of memory. Nothing that was counted is lost by that: only whose it was.

use std::{collections::BTreeMap, fmt, sync::Arc};

use parking_lot::RwLock;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder},
    metrics::{MetricType, TypedMetric, counter::Counter},
};

/// The value of every label that could have been anything, in the series for what does not fit.
pub const OTHER: &str = "other";

/// The labels of a series.
pub trait Labels: EncodeLabelSet + Clone + Ord + fmt::Debug + Send + Sync + 'static {
    /// Those of the series for what does not fit.
    fn other() -> Self;
}

/// Series by their labels. Cheap to clone.
pub struct Bounded<S, M> {
    shared: Arc<Shared<S, M>>,
}

struct Shared<S, M> {
    most: usize,
    make: fn() -> M,
    series: RwLock<BTreeMap<Arc<S>, M>>,
    overflow: Counter,
}

impl<S, M> Clone for Bounded<S, M> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<S, M> fmt::Debug for Bounded<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bounded").field("series", &self.shared.series.read().len()).finish_non_exhaustive()
    }
}

impl<S: Labels, M: Clone> Bounded<S, M> {
    /// None yet; up to `most`, and one for what does not fit. `make` makes what a series consists of; its clones count together.
    pub fn new(most: usize, make: fn() -> M) -> Self {
        let shared = Shared { most, make, series: RwLock::default(), overflow: Counter::default() };
        Self { shared: Arc::new(shared) }
    }

    /// The series of these labels, or the one for what does not fit. To be kept by whoever counts more than once.
    pub fn series(&self, labels: &S) -> M {
        if let Some(found) = self.shared.series.read().get(labels) {
            return found.clone();
        }
        let mut series = self.shared.series.write();
        if let Some(found) = series.get(labels) {
            return found.clone();
        }
        let other = S::other();
        let held = series.len() - usize::from(series.contains_key(&other));
        let labels = if held < self.shared.most || *labels == other {
            labels.clone()
        } else {
            self.shared.overflow.inc();
            other
        };
        series.entry(Arc::new(labels)).or_insert_with(self.shared.make).clone()
    }

    /// How often a series was asked for that did not fit.
    pub fn overflow(&self) -> u64 {
        self.shared.overflow.get()
    }

    /// One part of every series, as a metric family.
    pub fn view<X>(&self, part: fn(&M) -> &X) -> View<S, M, X> {
        View { of: self.clone(), part }
    }
}

/// One part of every series.
pub struct View<S, M, X> {
    of: Bounded<S, M>,
    part: fn(&M) -> &X,
}

impl<S, M, X> fmt::Debug for View<S, M, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.of.fmt(f)
    }
}

impl<S: Labels, M: Clone, X: EncodeMetric + TypedMetric> EncodeMetric for View<S, M, X> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        // Writing takes its time, and whoever needs a new series waits for this lock.
        let series: Vec<_> = self
            .of
            .shared
            .series
            .read()
            .iter()
            .map(|(labels, series)| (Arc::clone(labels), series.clone()))
            .collect();
        for (labels, series) in series {
            (self.part)(&series).encode(encoder.encode_family(&*labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        X::TYPE
    }

    fn is_empty(&self) -> bool {
        self.of.shared.series.read().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prometheus_client::{encoding::EncodeLabelSet, metrics::counter::Counter, registry::Registry};
    use proptest::prelude::*;

    use super::{Bounded, Labels, OTHER};
    use crate::telemetry::metrics::exposition::{Format, render};

    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
    struct Name {
        name: String,
    }

    impl Labels for Name {
        fn other() -> Self {
            Self { name: OTHER.to_owned() }
        }
    }

    proptest! {
        /// Whatever the labels, in whatever order: the bound holds, and the sum is what was counted.
        #[test]
        fn the_bound_holds_and_nothing_is_lost(
            names in proptest::collection::vec("[a-f]{0,2}|other|\\PC{0,6}", 0..200), most in 0_usize..20
        ) {
            let bounded = Bounded::<Name, Counter>::new(most, Counter::default);
            for name in &names {
                bounded.series(&Name { name: name.clone() }).inc();
            }
            let series: Vec<(String, u64)> = bounded
                .shared
                .series
                .read()
                .iter()
                .map(|(labels, counter)| (labels.name.clone(), counter.get()))
                .collect();
            prop_assert!(series.len() <= most + 1);
            prop_assert_eq!(series.iter().map(|(_, count)| count).sum::<u64>(), names.len() as u64);
            let distinct: BTreeSet<_> = names.iter().filter(|name| *name != OTHER).collect();
            prop_assert_eq!(bounded.overflow() > 0, distinct.len() > most);
            // The first ones keep their own series, and exactly their own count.
            let mut first = Vec::new();
            for name in names.iter().filter(|name| *name != OTHER) {
                if !first.contains(name) && first.len() < most {
                    first.push(name.clone());
                }
            }
            for name in first {
                let own = names.iter().filter(|other| **other == name).count() as u64;
                prop_assert!(series.contains(&(name, own)));
            }
        }
    }

    #[test]
    fn a_view_writes_every_series_once() {
        let bounded = Bounded::<Name, (Counter, Counter)>::new(2, Default::default);
        for name in ["b", "a", "c", "d"] {
            bounded.series(&Name { name: name.to_owned() }).0.inc_by(2);
        }
        let mut registry = Registry::default();
        registry.register("things", "Things", bounded.view(|(first, _)| first));
        let text = render(&registry, Format::Text);
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected =
            ["things_total{name=\"a\"} 2", "things_total{name=\"b\"} 2", "things_total{name=\"other\"} 4"];
        assert_eq!(lines, expected);
        assert_eq!(bounded.overflow(), 2);
    }
}
