//! The text that Prometheus reads: in which of two formats, and how the texts of several processes become one.
//!
//! `admin` renders a role's, `app::metrics` merges those of `egret up`. The formats are Prometheus' text format 0.0.4, which curl and
//! `promtool check metrics` get, and OpenMetrics 1.0, which a Prometheus asks for.

use std::collections::{BTreeSet, HashMap};

use prometheus_client::{
    encoding::{prometheus_text, text},
    registry::Registry,
};

/// A text format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' own.
    Text,
    /// OpenMetrics.
    OpenMetrics,
}

impl Format {
    /// What the `Accept` header of a request asks for: OpenMetrics where it is named at all, as every Prometheus since 2.5 does.
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Text }
    }

    /// The `Content-Type` of such a text.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Everything that is registered.
pub fn render(registry: &Registry, format: Format) -> String {
    let mut out = String::new();
    let written = match format {
        Format::Text => prometheus_text::encode(&mut out, registry),
        Format::OpenMetrics => text::encode(&mut out, registry),
    };
    if written.is_err() {
        // A String takes everything, so an encoder broke; half a page would be worse than none.
        tracing::error!("metrics cannot be written");
        out.clear();
    }
    out
}

/// One text of several in Prometheus' own format: each family once, with the samples of all. Families of one name are of one kind,
/// since all texts are ours.
pub fn merge(texts: &[String]) -> String {
    let mut order: Vec<&str> = Vec::new();
    let mut families: HashMap<&str, (BTreeSet<&str>, Vec<&str>)> = HashMap::new();
    for text in texts {
        let mut family = "";
        for line in text.lines() {
            // `# HELP name …`, `# TYPE name …`; the samples follow.
            if let Some(head) = line.strip_prefix("# ") {
                family = head.split(' ').nth(1).unwrap_or_default();
                let (heads, _) = families.entry(family).or_insert_with(|| {
                    order.push(family);
                    Default::default()
                });
                heads.insert(line);
            } else if let Some((_, samples)) = families.get_mut(family) {
                samples.push(line);
            }
        }
    }
    let lines = order
        .iter()
        .filter_map(|name| families.get(name))
        .flat_map(|(heads, samples)| heads.iter().chain(samples));
    lines.fold(String::new(), |out, line| out + line + "\n")
}

#[cfg(test)]
mod tests {
    use prometheus_client::{
        metrics::{counter::Counter, family::Family, gauge::Gauge},
        registry::Registry,
    };

    use super::{Format, merge, render};

    fn of_role(role: &str, own: &str) -> Registry {
        let mut registry = Registry::default();
        let common = Family::<Vec<(String, String)>, Gauge>::default();
        common.get_or_create(&vec![("component".to_owned(), role.to_owned())]).set(1);
        registry.register("egret_ready", "Ready", common);
        registry.register(own, "Own", Counter::<u64>::default());
        registry
    }

    #[test]
    fn families_of_several_processes_are_written_once() {
        let registries = [of_role("agent", "agents"), of_role("gateway", "gateways")];
        let texts = registries.each_ref().map(|registry| render(registry, Format::Text));
        let expected = "\
# HELP egret_ready Ready.
# TYPE egret_ready gauge
egret_ready{component=\"agent\"} 1
egret_ready{component=\"gateway\"} 1
# HELP agents_total Own.
# TYPE agents_total counter
agents_total 0
# HELP gateways_total Own.
# TYPE gateways_total counter
gateways_total 0
";
        assert_eq!(merge(&texts), expected);
    }

    #[test]
    fn who_asks_for_openmetrics_gets_it() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        for other in ["", "*/*", "text/html", "text/plain"] {
            assert_eq!(Format::accepted(other), Format::Text, "{other}");
        }
    }
}
