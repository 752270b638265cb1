//! The watch over guarded parents: which cgroups are there, what they are, what the kernel is told. Driven by `node::guard`.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, Inotify, InotifyEvent, WatchDescriptor},
};

use super::{Answer, Guards};
use crate::{
    datapath::{Capture, Class, Depths, Error},
    node::{cgroup::is_gone, counters::Counters},
};

/// Looks, names, guards.
pub(super) struct Warden<'a> {
    capture: &'a Capture,
    counters: &'a Counters,
    /// The inodes of the cgroups that this process is in.
    own: HashSet<u64>,
    events: Inotify,
    /// Directories whose children are told apart, with the parent that is guarded and the depth of those children.
    watched: HashMap<WatchDescriptor, (PathBuf, PathBuf, u32)>,
    /// Parents that were found guarded, or were guarded here.
    guarded: HashSet<u64>,
    /// What has been said to fail, so that it is said once.
    failing: HashSet<PathBuf>,
}

/// What a look has found.
struct Found {
    not_ours: HashSet<u64>,
    /// The first failure. Each cgroup is tried.
    outcome: Result<(), String>,
}

impl Default for Found {
    fn default() -> Self {
        Self { not_ours: HashSet::new(), outcome: Ok(()) }
    }
}

impl Found {
    fn fail(&mut self, at: &Path, why: &dyn fmt::Display) {
        if self.outcome.is_ok() {
            self.outcome = Err(format!("{}: {why}", at.display()));
        }
    }
}

impl<'a> Warden<'a> {
    /// `own`: the inodes of the cgroups that this process is in.
    pub(super) fn new(
        capture: &'a Capture,
        counters: &'a Counters,
        own: HashSet<u64>,
        events: Inotify,
    ) -> Self {
        Self {
            capture,
            counters,
            own,
            events,
            watched: HashMap::new(),
            guarded: HashSet::new(),
            failing: HashSet::new(),
        }
    }

    /// Takes what has happened. `true`: something may have been missed.
    pub(super) fn read(&mut self, guards: &Guards) -> bool {
        loop {
            let events = match self.events.read_events() {
                Err(Errno::EAGAIN) => return false,
                Err(e) => {
                    self.say(Path::new("new cgroups"), Err(format!("cannot be read: {e}")));
                    return true;
                }
                Ok(events) => events,
            };
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    return true;
                }
                self.happened(guards, &event);
            }
        }
    }

    fn happened(&mut self, guards: &Guards, event: &InotifyEvent) {
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            self.watched.remove(&event.wd);
            return;
        }
        let (Some((directory, parent, depth)), Some(name)) = (self.watched.get(&event.wd), &event.name)
        else {
            return;
        };
        let (path, parent, depth) = (directory.join(name), parent.clone(), *depth);
        if let Some(depths) = guards.parents.get(&parent) {
            let whole = Survey { judge: &*guards.judge, parent: &parent, depths: *depths };
            let mut found = Found::default();
            self.meet(&whole, &path, depth, &mut found);
            self.say(&path, found.outcome);
        }
    }

    /// Looks at everything there is, and brings the kernel's side in line. Returns how it stands with each parent.
    pub(super) fn look(&mut self, guards: &Guards) -> BTreeMap<PathBuf, Option<String>> {
        let mut standing = BTreeMap::new();
        let mut present = guards.all.then(|| (HashSet::new(), HashSet::new()));
        for (parent, depths) in &guards.parents {
            let survey = Survey { judge: &*guards.judge, parent, depths: *depths };
            let outcome = match fs::metadata(parent) {
                Ok(directory) => {
                    let (found, outcome) = self.guard(&survey, directory.ino());
                    present = present.filter(|_| found.outcome.is_ok()).map(|(mut parents, mut not_ours)| {
                        parents.insert(directory.ino());
                        not_ours.extend(found.not_ours);
                        (parents, not_ours)
                    });
                    found.outcome.and(outcome)
                }
                Err(e) if is_gone(&e) => {
                    standing.insert(parent.clone(), Some("is not there (yet)".to_owned()));
                    continue;
                }
                Err(e) => {
                    present = None;
                    Err(e.to_string())
                }
            };
            standing.insert(parent.clone(), outcome.clone().err());
            self.say(parent, outcome);
        }
        // What was not seen because of a failure is not gone, nor is it when not everything is known.
        if let Some((parents, not_ours)) = present {
            let outcome = self.take_away(&parents, &not_ours).map_err(|e| e.to_string());
            self.say(Path::new("what is not wanted any more"), outcome);
        }
        standing
    }

    /// Names what is below a parent, then guards it: nothing that was there is refused.
    fn guard(&mut self, survey: &Survey<'_>, inode: u64) -> (Found, Result<(), String>) {
        let mut found = Found::default();
        self.survey(survey, survey.parent, 1, &mut found);
        let cgroup = survey.parent.display();
        let missing = match self.capture.guard(survey.parent, survey.depths) {
            Ok(missing) => missing,
            Err(e) => return (found, Err(e.to_string())),
        };
        let known = !self.guarded.insert(inode);
        if known && missing > 0 {
            self.counters.programs_reattached.add(missing as u64);
            tracing::error!(
                %cgroup,
                "{missing} programs of its guard had been detached by somebody and are attached again; what started \
                 meanwhile may have connected before it was captured"
            );
        } else if !known {
            tracing::info!(%cgroup, "guarded: what starts in it cannot get out until it is known");
        }
        (found, Ok(()))
    }

    /// Looks at what is in `directory`, whose children are `depth` below the guarded parent, now and when more is made.
    fn survey(&mut self, survey: &Survey<'_>, directory: &Path, depth: u32, found: &mut Found) {
        // Before it is read, so that nothing is missed in between.
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_ONLYDIR;
        match self.events.add_watch(directory, flags) {
            Ok(watch) => {
                self.watched.insert(watch, (directory.to_owned(), survey.parent.to_owned(), depth));
            }
            Err(Errno::ENOENT) => return,
            Err(e) => found.fail(directory, &format!("what is made there is seen late: {e}")),
        }
        let entries = match fs::read_dir(directory) {
            Err(e) if is_gone(&e) => return,
            Err(e) => return found.fail(directory, &e),
            Ok(entries) => entries,
        };
        for entry in entries {
            match entry {
                Ok(entry) => self.meet(survey, &entry.path(), depth, found),
                Err(e) => found.fail(directory, &e),
            }
        }
    }

    /// Says what one cgroup is.
    fn meet(&mut self, survey: &Survey<'_>, path: &Path, depth: u32, found: &mut Found) {
        let inode = match fs::symlink_metadata(path) {
            Ok(entry) if entry.is_dir() => entry.ino(),
            Ok(_) => return,
            Err(e) if is_gone(&e) => return,
            Err(e) => return found.fail(path, &e),
        };
        let Depths { first, second } = survey.depths;
        let answer = if depth < first.get() { Answer::Between } else { (survey.judge)(path) };
        match answer {
            Answer::Between if depth < second.unwrap_or(first).get() => {
                return self.survey(survey, path, depth + 1, found);
            }
            // But for our own: whoever judges must be able to ask others.
            Answer::Held if !self.own.contains(&inode) => return,
            Answer::Held | Answer::NotOurs | Answer::Between => {}
        }
        found.not_ours.insert(inode);
        if let Err(e) = self.capture.classify(inode, Class::NotOurs) {
            found.fail(path, &e);
        }
    }

    /// Takes away guards that nobody wants, and names of cgroups that are gone or not left alone any more.
    fn take_away(&mut self, parents: &HashSet<u64>, not_ours: &HashSet<u64>) -> Result<(), Error> {
        for inode in self.capture.guarded()? {
            if !parents.contains(&inode) {
                self.capture.unguard(inode)?;
                self.guarded.remove(&inode);
                tracing::info!(inode, "guarded no more");
            }
        }
        for (inode, class) in self.capture.classes()? {
            if class == Class::NotOurs && !not_ours.contains(&inode) {
                self.capture.forget(inode)?;
            }
        }
        Ok(())
    }

    /// Says that something fails, once, and counts it every time.
    fn say(&mut self, what: &Path, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => {
                self.failing.remove(what);
            }
            Err(why) => {
                self.counters.checks_failed.increment();
                if self.failing.insert(what.to_owned()) {
                    tracing::error!(cgroup = %what.display(), "strict start: {why}");
                }
            }
        }
    }
}

/// A guarded parent, and how what is below it is told apart.
struct Survey<'a> {
    judge: &'a (dyn Fn(&Path) -> Answer + Send + Sync),
    parent: &'a Path,
    depths: Depths,
}
