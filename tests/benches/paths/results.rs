//! What was measured in all rounds, and the medians of it.

use std::collections::BTreeMap;

use egret_tests::quartiles::quartiles;
use serde_json::{Value, json};

use crate::{path::Path, visit::Figures};

/// Of one round.
pub(crate) type Round = BTreeMap<Path, Figures>;

pub(crate) struct Results {
    machine: Value,
    quick: bool,
    rounds: Vec<Round>,
    /// Why a path has no figures any more.
    failed: BTreeMap<Path, String>,
}

impl Results {
    pub(crate) fn new(machine: Value, quick: bool) -> Self {
        Self { machine, quick, rounds: Vec::new(), failed: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, round: Round) {
        self.rounds.push(round);
    }

    /// A path that failed once has no figures: those of the other rounds would be of a path that does not work.
    pub(crate) fn fail(&mut self, path: Path, error: &anyhow::Error) {
        self.failed.insert(path, format!("{error:#}"));
        for round in &mut self.rounds {
            round.remove(&path);
        }
    }

    pub(crate) fn has_failed(&self, path: Path) -> bool {
        self.failed.contains_key(&path)
    }

    pub(crate) fn failures(&self) -> usize {
        self.failed.len()
    }

    pub(crate) fn rounds(&self) -> &[Round] {
        &self.rounds
    }

    /// Paths that have figures.
    pub(crate) fn paths(&self) -> Vec<Path> {
        let has = |path: &Path| self.rounds.iter().any(|round| round.contains_key(path));
        Path::ALL.into_iter().filter(has).collect()
    }

    /// The quartiles of a figure, where it was measured.
    pub(crate) fn quartiles(&self, path: Path, figure: &str) -> Option<[f64; 3]> {
        let mut values: Vec<f64> =
            self.rounds.iter().filter_map(|round| round.get(&path)?.get(figure).copied()).collect();
        (!values.is_empty()).then(|| quartiles(&mut values))
    }

    /// All of it, without the ratios.
    pub(crate) fn summary(&self) -> Value {
        let paths =
            Path::ALL.into_iter().filter(|path| self.paths().contains(path) || self.has_failed(*path));
        let paths = paths.map(|path| {
            let rounds: Vec<_> = self.rounds.iter().filter_map(|round| round.get(&path)).collect();
            let mut names: Vec<&String> = rounds.iter().flat_map(|figures| figures.keys()).collect();
            names.sort_unstable();
            names.dedup();
            let medians = names.into_iter().filter_map(|name| {
                let [low, middle, high] = self.quartiles(path, name)?;
                Some((
                    name.clone(),
                    json!({ "median": middle, "lower_quartile": low, "upper_quartile": high }),
                ))
            });
            let of_path = json!({
                "title": path.title(),
                "configured": path.description(),
                "failed": self.failed.get(&path),
                "rounds": rounds,
                "medians": Value::Object(medians.collect()),
            });
            (path.key().to_owned(), of_path)
        });
        json!({
            "quick": self.quick,
            "rounds": self.rounds.len(),
            "machine": self.machine,
            "paths": Value::Object(paths.collect()),
        })
    }
}
