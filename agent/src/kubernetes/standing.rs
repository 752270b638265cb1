//! How it stands with everything that is read from the Kubernetes API: what was never read yet, and what is in the way.
//!
//! Whoever watches something says so here; `status` and readiness ask.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

/// One thing that is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Watch {
    /// All of it has been read at least once.
    read: bool,
    /// What is in the way now.
    problem: Option<String>,
    /// There is no such thing in the cluster, which counts as read.
    absent: bool,
}

/// What one process watches. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    watches: Arc<Mutex<BTreeMap<String, Watch>>>,
}

impl Standing {
    /// Everything that is expected has been read at least once.
    pub fn is_complete(&self) -> bool {
        self.watches.lock().values().all(|watch| watch.read)
    }

    /// What is in the way, one sentence each, in the order of the names.
    pub fn problems(&self) -> Vec<String> {
        let watches = self.watches.lock();
        let described = watches.iter().filter_map(|(name, watch)| match watch {
            Watch { problem: Some(problem), read: true, absent: false } => {
                Some(format!("{name}: {problem}; what was read before stays in force"))
            }
            Watch { problem: Some(problem), .. } => Some(format!("{name}: {problem}")),
            Watch { problem: None, read: false, .. } => Some(format!("{name}: not read yet")),
            Watch { problem: None, read: true, .. } => None,
        });
        described.collect()
    }

    /// `name` is going to be watched.
    pub(crate) fn expect(&self, name: &str) {
        self.watches.lock().entry(name.to_owned()).or_default();
    }

    /// `name` is not watched any more.
    pub(crate) fn forget(&self, name: &str) {
        self.watches.lock().remove(name);
    }

    /// All of `name` has been read.
    pub(crate) fn is_read(&self, name: &str) {
        self.watches.lock().insert(name.to_owned(), Watch { read: true, ..Watch::default() });
    }

    /// `name` is fine again, or as far as it was. Whether there was a problem.
    pub(crate) fn is_well(&self, name: &str) -> bool {
        self.watches.lock().entry(name.to_owned()).or_default().problem.take().is_some()
    }

    /// Something is in the way of `name`. Whether that is news.
    pub(crate) fn fails(&self, name: &str, problem: String) -> bool {
        let mut watches = self.watches.lock();
        let watch = watches.entry(name.to_owned()).or_default();
        let news = watch.problem.as_ref() != Some(&problem);
        watch.problem = Some(problem);
        watch.absent = false;
        news
    }

    /// There is no `name` in the cluster; that counts as read. Whether that is news.
    pub(crate) fn is_absent(&self, name: &str, sentence: &str) -> bool {
        let watch = Watch { read: true, problem: Some(sentence.to_owned()), absent: true };
        self.watches.lock().insert(name.to_owned(), watch.clone()) != Some(watch)
    }
}

#[cfg(test)]
mod tests {
    use super::Standing;

    #[test]
    fn what_was_read_once_counts_although_there_is_a_problem_now() {
        let standing = Standing::default();
        standing.expect("pods");
        assert!(!standing.is_complete());
        assert_eq!(standing.problems(), ["pods: not read yet"]);
        assert!(standing.fails("pods", "forbidden".to_owned()));
        assert!(!standing.fails("pods", "forbidden".to_owned()), "the same again is no news");
        assert!(!standing.is_complete());
        standing.is_read("pods");
        assert!(standing.is_complete() && standing.problems().is_empty());
        standing.fails("pods", "gone".to_owned());
        assert!(standing.is_complete());
        assert_eq!(standing.problems(), ["pods: gone; what was read before stays in force"]);
        assert!(standing.is_well("pods"));
        assert!(!standing.is_well("pods"));
        assert!(
            standing.is_absent("Gateways", "no such kind") && !standing.is_absent("Gateways", "no such kind")
        );
        assert!(standing.is_complete());
        assert_eq!(standing.problems(), ["Gateways: no such kind"]);
        standing.is_read("Gateways");
        assert!(standing.problems().is_empty());
    }
}
