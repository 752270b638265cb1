//! Latencies of one window.

use std::time::Duration;

use serde_json::{Value, json};

#[derive(Default)]
pub(super) struct Latencies(Vec<u32>);

impl Latencies {
    pub(super) fn add(&mut self, latency: Duration) {
        self.0.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    pub(super) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// Milliseconds.
    pub(super) fn percentiles(mut self) -> Value {
        self.0.sort_unstable();
        let at = |per_mille: usize| {
            let index = (self.0.len() * per_mille).div_ceil(1_000).saturating_sub(1);
            self.0.get(index).map(|microseconds| f64::from(*microseconds) / 1_000.0)
        };
        json!({ "p50_ms": at(500), "p99_ms": at(990) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Latencies;

    #[test]
    fn percentiles_are_values_that_were_there() {
        let mut latencies = Latencies::default();
        (1..=200).rev().for_each(|millisecond| latencies.add(Duration::from_millis(millisecond)));
        let percentiles = latencies.percentiles();
        assert_eq!(
            (percentiles["p50_ms"].as_f64(), percentiles["p99_ms"].as_f64()),
            (Some(100.0), Some(198.0))
        );
        assert!(Latencies::default().percentiles()["p50_ms"].is_null());
    }
}
