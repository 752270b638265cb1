//! Numbers that are looked up when somebody asks: gauges, and counters that are kept elsewhere.
//!
//! `admin` fills one for each answer, from the same structures that `egret status` shows.

use std::fmt;

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder},
    metrics::{MetricType, TypedMetric, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

/// The labels of one number.
type Labels = Vec<(&'static str, String)>;

/// What is to be written.
#[derive(Default)]
pub struct Page {
    registry: Registry,
}

impl Page {
    /// One number that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.gauges(name, help, [(Vec::new(), value)]);
    }

    /// Several. Of none nothing is written.
    pub fn gauges(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, f64)>) {
        let values = values.into_iter().map(|(labels, value)| (labels, ConstGauge::new(value)));
        self.registry.register(name, help, Values(values.collect()));
    }

    /// One number that goes up only; `name` without `_total`.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.counters(name, help, [(Vec::new(), value)]);
    }

    /// Several. Of none nothing is written.
    pub fn counters(&mut self, name: &str, help: &str, values: impl IntoIterator<Item = (Labels, u64)>) {
        let values = values.into_iter().map(|(labels, value)| (labels, ConstCounter::new(value)));
        self.registry.register(name, help, Values(values.collect()));
    }

    /// For families that are counted in series of their own.
    pub fn registry(&mut self) -> &mut Registry {
        &mut self.registry
    }
}

#[derive(Debug)]
struct Values<M>(Vec<(Labels, M)>);

impl<M: EncodeMetric + TypedMetric> EncodeMetric for Values<M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(labels, value)| value.encode(encoder.encode_family(labels)?))
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Page;
    use crate::telemetry::metrics::exposition::{Format, render};

    #[test]
    fn numbers_are_written_with_their_labels() {
        let mut page = Page::default();
        page.gauge("pages", "Pages", 1.5);
        page.counters("words", "Words", [(vec![("of", "a \"b\"\n".to_owned())], 7)]);
        page.gauges("nothing", "None", []);
        let expected = "\
# HELP pages Pages.
# TYPE pages gauge
pages 1.5
# HELP words_total Words.
# TYPE words_total counter
words_total{of=\"a \\\"b\\\"\\n\"} 7
";
        assert_eq!(render(page.registry(), Format::Text), expected);
    }
}
