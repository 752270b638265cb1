//! The results for people and programs: tables in Markdown (which a terminal shows as well), `summary.json`, plots.

use std::{
    fs,
    io::{self, Write as _},
    path::Path as FilePath,
};

use anyhow::{Context as _, Result};

use crate::{
    path::Path,
    plot,
    ratios::{self, Reached},
    results::Results,
};

/// Heading, figures that share the column, decimals.
type Column = (&'static str, &'static [&'static str], usize);

const REQUESTS: &[Column] = &[
    ("CPU-s/10k requests, max rate", &["cpu_s_per_10k_requests_at_32"], 3),
    ("at 1,000/s", &["cpu_s_per_10k_requests_at_1000_rps"], 3),
    (
        "requests/s: 1 · 32 · 256 conns",
        &["requests_per_s_at_1", "requests_per_s_at_32", "requests_per_s_at_256"],
        0,
    ),
    ("ms at 1,000/s: p50 · p99", &["p50_ms_at_1000_rps", "p99_ms_at_1000_rps"], 2),
];
const CONNECTIONS: &[Column] = &[
    ("new conns/s", &["new_connections_per_s"], 0),
    ("CPU-s/10k", &["cpu_s_per_10k_new_connections"], 2),
    ("MiB/s: down · up", &["down_mib_per_s", "up_mib_per_s"], 0),
    ("CPU-s/GiB: down · up", &["down_cpu_s_per_gib", "up_cpu_s_per_gib"], 2),
    (
        "MiB: idle · 1,000 · 10,000 flows",
        &["rss_mib_at_0_flows", "rss_mib_at_1000_flows", "rss_mib_at_10000_flows"],
        0,
    ),
];

/// Writes everything into `directory`, and the tables to standard output.
pub(crate) fn write(results: &Results, directory: &FilePath) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let reached = ratios::reached(results);
    let mut summary = results.summary();
    (summary["ratios"], summary["goals"]) = ratios::summary(&reached);
    let tables = [paths(results, REQUESTS), paths(results, CONNECTIONS), goals(&reached)];
    let tables = tables.map(|rows| aligned(&rows)).join("\n");
    let put = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    put("summary.json", &format!("{summary:#}\n"))?;
    put("summary.md", &tables)?;
    plot::all(results).into_iter().try_for_each(|(name, svg)| put(name, &svg))?;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "\nMedians of {} rounds\n\n{tables}\n{}/summary.json",
        results.rounds().len(),
        directory.display()
    )
    .context("cannot write to standard output")
}

/// A row per path.
fn paths(results: &Results, columns: &[Column]) -> Vec<Vec<String>> {
    let heading = ["path"].into_iter().chain(columns.iter().map(|(heading, ..)| *heading)).map(str::to_owned);
    let row = |path: Path| {
        let cells = columns.iter().map(|(_, figures, decimals)| {
            let values = figures.iter().map(|figure| {
                let quartiles = results.quartiles(path, figure);
                quartiles.map_or_else(|| "–".to_owned(), |[_, median, _]| format!("{median:.decimals$}"))
            });
            let values: Vec<String> = values.collect();
            if values.iter().all(|value| value == "–") { "–".to_owned() } else { values.join(" · ") }
        });
        [path.title().to_owned()].into_iter().chain(cells).collect()
    };
    [heading.collect()].into_iter().chain(results.paths().into_iter().map(row)).collect()
}

/// A row per ratio and bound.
fn goals(reached: &[Reached]) -> Vec<Vec<String>> {
    let heading = ["ratio", "median", "quartiles", "goal", "met"].map(str::to_owned).to_vec();
    let row = |reached: &Reached| {
        let [low, middle, high] = reached.quartiles;
        let met = match reached.bound.is_met(middle) {
            Some(true) => "yes",
            Some(false) => "no",
            None => "",
        };
        vec![
            reached.name.to_owned(),
            format!("{middle:.3}"),
            format!("{low:.3} to {high:.3}"),
            reached.bound.shown(),
            met.to_owned(),
        ]
    };
    [heading].into_iter().chain(reached.iter().map(row)).collect()
}

/// A Markdown table whose columns are in line. The first row is the heading.
fn aligned(rows: &[Vec<String>]) -> String {
    let length = |text: &str| text.chars().count();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| length(cell)).max().unwrap_or_default()
        })
        .collect();
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let padded = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - length(cell))));
        text += &line(padded.collect());
        if number == 0 {
            text += &line(widths.iter().map(|width| "-".repeat(*width)).collect());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::aligned;

    #[test]
    fn columns_are_in_line() {
        let rows = [["path", "≤"], ["a", "long"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(aligned(&rows), "| path | ≤    |\n| ---- | ---- |\n| a    | long |\n");
    }
}
