//! Pods whose namespace may have been labelled a moment ago. Pods and namespaces are watched apart, so a pod can be here before the
//! label that it was made under: what its namespace says is asked once more before a new pod is left alone. Used by `kubernetes::pods`.
//!
//! Until then the pod counts as one that nobody knows: not enrolled, and held by a strict start.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use tokio::{task::JoinSet, time::sleep};

use crate::kubernetes::{names::EGRESS, standing::Standing, watching::describe_cause};

/// Before it is asked again what the watch has not told yet, or nobody could tell.
const AGAIN: Duration = Duration::from_millis(200);
/// How this is called where it is said how it stands.
const NAME: &str = "the labels of new pods' namespaces";

/// Pods (by uid) that are not asked about any more.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pods: BTreeSet<String>,
}

/// The namespaces to ask, each with what the watch says of it, and its pods.
pub(super) type Doubts = BTreeMap<String, Doubt>;

/// Pods that would be left alone because of what the watch says of their namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Doubt {
    /// The label as the watch has it.
    pub(super) label: Option<String>,
    /// Uids.
    pub(super) pods: Vec<String>,
}

impl Settled {
    /// Whether nothing is to be asked about this pod.
    pub(super) fn has(&self, uid: &str) -> bool {
        self.pods.contains(uid)
    }

    /// Nothing is asked about these any more.
    pub(super) fn settle(&mut self, pods: impl IntoIterator<Item = String>) {
        self.pods.extend(pods);
    }

    /// Forgets those that are gone.
    pub(super) fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.pods.retain(|uid| is_there(uid));
    }

    /// Asks about all doubts, and returns when some are settled, or after a while.
    pub(super) async fn ask(&mut self, client: &Client, doubts: &Doubts, standing: &Standing) {
        let mut questions = JoinSet::new();
        for name in doubts.keys().cloned() {
            let namespaces = Api::<Namespace>::all(client.clone());
            questions.spawn(async move { (namespaces.get_metadata_opt(&name).await, name) });
        }
        let (mut settled, mut failed) = (false, BTreeMap::new());
        while let Some(answered) = questions.join_next().await {
            let Ok((answer, name)) = answered else { continue };
            match answer {
                Ok(found) => {
                    // Without its namespace a pod is about to go.
                    let label = found.and_then(|found| found.metadata.labels?.remove(EGRESS));
                    settled |= self.compare(&doubts[&name], label.as_deref());
                }
                Err(error) => drop(failed.insert(name, error)),
            }
        }
        match failed.pop_first().map(|(_, error)| describe_cause(&error)) {
            // One speaks for all: they have the same in the way.
            Some(problem) => {
                if standing.fails(NAME, problem.clone()) {
                    tracing::warn!("{NAME} cannot be read, new pods without a label wait: {problem}");
                }
            }
            None => standing.is_read(NAME),
        }
        if !settled {
            sleep(AGAIN).await;
        }
    }

    /// Settles a doubt if the watch was right; else it is about to hear what is.
    fn compare(&mut self, doubt: &Doubt, label: Option<&str>) -> bool {
        let was_right = doubt.label.as_deref() == label;
        if was_right {
            self.settle(doubt.pods.iter().cloned());
        }
        was_right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_settled_when_its_namespace_says_what_the_watch_says() {
        let mut settled = Settled::default();
        let doubt =
            |label: Option<&str>| Doubt { label: label.map(str::to_owned), pods: vec!["u".to_owned()] };
        assert!(!settled.compare(&doubt(None), Some("enabled")));
        assert!(!settled.compare(&doubt(Some("disabled")), None));
        assert!(!settled.has("u"));
        assert!(settled.compare(&doubt(Some("disabled")), Some("disabled")));
        assert!(settled.has("u"));
        settled.keep(|_| false);
        assert!(!settled.has("u"));
    }
}
