//! Plots of the results: bars with quartiles, as SVG that needs nothing else and is read on light and dark pages.

use std::fmt::Write as _;

use crate::{path::Path, results::Results};

const LABELS: f64 = 250.0;
const BARS: f64 = 430.0;
const VALUES: f64 = 90.0;
const BAR: f64 = 18.0;
const GAP: f64 = 12.0;
const HEAD: f64 = 36.0;
const COLOURS: [&str; 3] = ["#2f7ed8", "#e08a1e", "#4c9f70"];

/// Title, file, and what its bars are: figure and label.
struct Plot {
    file: &'static str,
    title: &'static str,
    bars: &'static [(&'static str, &'static str)],
    decimals: usize,
}

const PLOTS: [Plot; 6] = [
    Plot {
        file: "cpu-per-request.svg",
        title: "CPU seconds of all proxies per 10,000 requests (less is better)",
        bars: &[
            ("cpu_s_per_10k_requests_at_32", "at maximum rate, 32 connections"),
            ("cpu_s_per_10k_requests_at_1000_rps", "at 1,000 requests per second"),
        ],
        decimals: 2,
    },
    Plot {
        file: "requests-per-second.svg",
        title: "Requests per second (more is better)",
        bars: &[
            ("requests_per_s_at_1", "1 connection"),
            ("requests_per_s_at_32", "32 connections"),
            ("requests_per_s_at_256", "256 connections"),
        ],
        decimals: 0,
    },
    Plot {
        file: "latency.svg",
        title: "Milliseconds at 1,000 requests per second (less is better)",
        bars: &[("p50_ms_at_1000_rps", "median"), ("p99_ms_at_1000_rps", "99th percentile")],
        decimals: 2,
    },
    Plot {
        file: "new-connections.svg",
        title: "CPU seconds per 10,000 new connections (less is better)",
        bars: &[("cpu_s_per_10k_new_connections", "connect, one request, close")],
        decimals: 2,
    },
    Plot {
        file: "bulk.svg",
        title: "CPU seconds of all proxies per GiB (less is better)",
        bars: &[("down_cpu_s_per_gib", "down"), ("up_cpu_s_per_gib", "up")],
        decimals: 2,
    },
    Plot {
        file: "memory.svg",
        title: "MiB resident (less is better)",
        bars: &[
            ("rss_mib_at_0_flows", "idle"),
            ("rss_mib_at_1000_flows", "1,000 idle flows"),
            ("rss_mib_at_10000_flows", "10,000 idle flows"),
        ],
        decimals: 0,
    },
];

/// Name and content of each.
pub(crate) fn all(results: &Results) -> Vec<(&'static str, String)> {
    PLOTS.iter().map(|plot| (plot.file, draw(plot, results))).collect()
}

fn draw(plot: &Plot, results: &Results) -> String {
    let groups: Vec<(Path, Vec<[f64; 3]>)> = results
        .paths()
        .into_iter()
        .filter_map(|path| {
            let bars: Option<Vec<_>> =
                plot.bars.iter().map(|(figure, _)| results.quartiles(path, figure)).collect();
            // Without proxies there is nothing to see where they are what is measured.
            bars.filter(|bars| bars.iter().any(|[_, median, _]| *median > 0.0)).map(|bars| (path, bars))
        })
        .collect();
    let most =
        groups.iter().flat_map(|(_, bars)| bars).map(|[.., high]| *high).fold(f64::MIN_POSITIVE, f64::max);
    let scale = BARS / most;
    let group_height = plot.bars.len() as f64 * BAR + GAP;
    let legend = HEAD + groups.len() as f64 * group_height;
    let (width, height) = (LABELS + BARS + VALUES, legend + BAR + GAP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\" font-weight=\"bold\">{}</text>\n",
        plot.title
    );
    for (number, (path, bars)) in groups.iter().enumerate() {
        let top = HEAD + number as f64 * group_height;
        let middle = top + (group_height - GAP) / 2.0 + 4.0;
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{middle:.0}\" text-anchor=\"end\">{}</text>",
            LABELS - 10.0,
            path.title()
        );
        for (index, ([low, median, high], colour)) in bars.iter().zip(COLOURS).enumerate() {
            let y = top + index as f64 * BAR;
            let centre = y + BAR / 2.0 - 1.0;
            let at = |value: f64| LABELS + value * scale;
            let _ = writeln!(
                svg,
                "<rect x=\"{LABELS}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>\n\
                 <path d=\"M{:.1} {centre:.1}H{:.1}\" stroke=\"#000\" stroke-width=\"1.5\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\">{median:.*}</text>",
                median * scale,
                BAR - 2.0,
                at(*low),
                at(*high),
                at(*high) + 6.0,
                centre + 4.0,
                plot.decimals,
            );
        }
    }
    let step = (BARS + VALUES) / plot.bars.len() as f64;
    for (index, ((_, label), colour)) in plot.bars.iter().zip(COLOURS).enumerate() {
        let x = LABELS + index as f64 * step;
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.0}\" y=\"{legend:.0}\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\n\
             <text x=\"{:.0}\" y=\"{:.0}\">{label}</text>",
            x + 18.0,
            legend + 10.0
        );
    }
    svg + "</svg>\n"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::all;
    use crate::{path::Path, results::Results};

    #[test]
    fn a_path_has_bars_where_it_was_measured() {
        let mut results = Results::new(Value::Null, true);
        let figures = |value| {
            BTreeMap::from(["p50_ms_at_1000_rps", "p99_ms_at_1000_rps"].map(|name| (name.to_owned(), value)))
        };
        results.add(BTreeMap::from([(Path::Egret, figures(0.5)), (Path::NoProxy, figures(0.25))]));
        for (name, svg) in all(&results) {
            assert_eq!(svg.matches(">Egret<").count(), usize::from(name == "latency.svg"), "{name}");
            assert_eq!(svg.matches(">0.50<").count(), 2 * usize::from(name == "latency.svg"), "{name}");
        }
    }
}
