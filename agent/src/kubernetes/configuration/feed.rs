//! Events → index: what was read of each kind, and when it is enough to be put in force. No I/O.

use std::{
    collections::{BTreeMap, BTreeSet, hash_map::RandomState},
    hash::BuildHasher as _,
};

use tokio::sync::watch;

use super::{
    super::standing::Standing,
    Scope,
    object::{self, Object},
    subject::{Subject, settings_place},
};
use crate::source::{
    following::{Loaded, Source},
    index::Index,
    report::Severity,
};

/// What a watch saw.
#[derive(Debug)]
pub(super) enum Change {
    /// All there is.
    Listed(Subject, Vec<Object>),
    /// One that is new or changed.
    Applied(Subject, Object),
    /// One that is gone, or is not for Egret any more.
    Deleted(Subject, String),
    /// The API server does not know the kind. What it had is gone by deletion, or was never there.
    Unknown(Subject),
}

/// What was read of one kind: the objects, with a fingerprint each.
#[derive(Debug, Default)]
struct Held {
    read: bool,
    objects: BTreeMap<String, u64>,
}

/// The index of a cluster.
#[derive(Debug)]
pub(super) struct Feed {
    scope: Scope,
    /// The ConfigMap with the settings.
    settings: String,
    /// The settings in [`Standing`].
    title: String,
    index: Index,
    held: BTreeMap<Subject, Held>,
    wanted: watch::Sender<BTreeSet<Subject>>,
    standing: Standing,
    fingerprints: RandomState,
    /// Something changed and is not in force yet.
    pending: bool,
    in_force: bool,
}

impl Feed {
    /// Knows nothing yet. Also what has to be watched, which may change with the settings.
    pub(super) fn new(
        scope: Scope,
        namespace: &str,
        standing: Standing,
    ) -> (Self, watch::Receiver<BTreeSet<Subject>>) {
        let settings = settings_place(namespace);
        let title = format!("settings of the mesh in {settings}");
        standing.expect(&title);
        let (wanted, receiver) = watch::channel(BTreeSet::new());
        let mut feed = Self {
            scope,
            settings,
            title,
            index: Index::default(),
            held: BTreeMap::new(),
            wanted,
            standing,
            fingerprints: RandomState::new(),
            pending: true,
            in_force: false,
        };
        feed.want(Subject::wanted(scope, &Loaded::default().snapshot.settings));
        (feed, receiver)
    }

    /// Begins and ends to hold kinds. Whether that makes a difference to the index.
    fn want(&mut self, wanted: BTreeSet<Subject>) -> bool {
        let mut changed = false;
        self.held.retain(|subject, held| {
            let keep = wanted.contains(subject);
            if !keep {
                held.objects.keys().for_each(|place| self.index.delete(place));
                changed |= !held.objects.is_empty();
            }
            keep
        });
        for subject in &wanted {
            self.held.entry(*subject).or_default();
        }
        self.wanted.send_if_modified(|before| {
            let modified = *before != wanted;
            *before = wanted;
            modified
        });
        changed
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Listed(subject, objects) => {
                let Some(held) = self.held.get_mut(&subject) else { return };
                let first = !std::mem::replace(&mut held.read, true);
                let listed: BTreeSet<_> = objects.iter().map(|object| object.place.clone()).collect();
                let gone: Vec<_> =
                    held.objects.keys().filter(|place| !listed.contains(*place)).cloned().collect();
                for place in &gone {
                    self.delete(subject, place);
                }
                for object in &objects {
                    self.apply(subject, object);
                }
                if first && subject == Subject::Settings && !listed.contains(&self.settings) {
                    object::apply_without_settings(&mut self.index, &self.settings);
                }
                self.pending |= first;
            }
            Change::Applied(subject, object) => self.apply(subject, &object),
            Change::Deleted(subject, place) => self.delete(subject, &place),
            Change::Unknown(subject) => {
                let Some(held) = self.held.get_mut(&subject) else { return };
                self.pending |= !std::mem::replace(&mut held.read, true);
            }
        }
    }

    fn apply(&mut self, subject: Subject, object: &Object) {
        let Some(held) = self.held.get_mut(&subject) else { return };
        let fingerprint = self.fingerprints.hash_one(&object.value);
        if held.objects.insert(object.place.clone(), fingerprint) != Some(fingerprint) {
            object::apply(&mut self.index, subject, object);
            self.pending = true;
        }
    }

    fn delete(&mut self, subject: Subject, place: &str) {
        let Some(held) = self.held.get_mut(&subject) else { return };
        if held.objects.remove(place).is_none() {
            return;
        }
        if place == self.settings {
            object::apply_without_settings(&mut self.index, place);
        } else {
            self.index.delete(place);
        }
        self.pending = true;
    }

    fn is_read(&self) -> bool {
        self.held.values().all(|held| held.read)
    }

    /// Says how it stands with the settings, without which nothing is in force: trust domain and ranges would be guessed.
    fn judge_settings(&self, loaded: &Loaded) {
        let mut problems = loaded.report.problems.iter();
        match problems.find(|found| found.file == self.settings && found.severity == Severity::Error) {
            None => self.standing.is_read(&self.title),
            Some(problem) => {
                if self.index.has_settings() {
                    self.standing.is_read(&self.title);
                }
                if self.standing.fails(&self.title, problem.to_string()) && !self.in_force {
                    tracing::error!("waiting for the settings of the mesh: {problem}");
                }
            }
        }
    }
}

impl Source for Feed {
    type Change = Change;

    fn take(&mut self, burst: Vec<Change>) -> Option<Loaded> {
        for change in burst {
            self.change(change);
        }
        if !self.pending || !self.is_read() {
            return None;
        }
        let mut loaded = self.index.load();
        self.judge_settings(&loaded);
        if !self.index.has_settings() {
            return None;
        }
        if self.want(Subject::wanted(self.scope, &loaded.snapshot.settings)) {
            loaded = self.index.load();
        }
        if !self.is_read() {
            return None;
        }
        self.pending = false;
        self.in_force = true;
        Some(loaded)
    }
}

#[cfg(test)]
mod tests;
