//! Strict start of pods: what the cgroups below the directory of all pods are. Called by `node::pods`; `node::guard` does the rest.
//! Enrols nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    cgroups::{Entry, entry, is_static},
    pod::{Pods, Wish},
};
use crate::{
    datapath::Depths,
    node::guard::{Answer, Guards},
};

/// What is known when the cgroups of pods are told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// The directory of all pods, if it is found and to be guarded.
    pub(super) parent: Option<PathBuf>,
    /// Everything is known, so that a guard that is not wanted may go.
    pub(super) all: bool,
    /// The uid of Egret's own pod.
    pub(super) own: String,
    /// Pods that are to be captured, or are and stay so.
    pub(super) held: BTreeSet<String>,
    /// Pods that are not.
    pub(super) free: BTreeSet<String>,
}

impl Known {
    /// Of what the API says, if it has been asked; and of those pods that it does not name: they are on their way to it, or it has
    /// forgotten them while they end. `enrolled` and `left_alone`: what was made of a pod before.
    pub(super) fn new(
        own: &str,
        pods: Option<&Pods>,
        enrolled: impl Fn(&str) -> bool,
        left_alone: BTreeSet<String>,
    ) -> Self {
        let mut known = Self { own: own.to_owned(), free: left_alone, ..Self::default() };
        let wishes: BTreeMap<_, _> = pods.into_iter().flatten().map(|(uid, pod)| (uid, pod.wish)).collect();
        for (uid, wish) in wishes {
            let is_held = match wish {
                Wish::Enrolled => true,
                Wish::Unclear => enrolled(uid),
                Wish::OptedOut | Wish::Nobody | Wish::Own => false,
            };
            let (here, there) =
                if is_held { (&mut known.held, &mut known.free) } else { (&mut known.free, &mut known.held) };
            here.insert(uid.clone());
            there.remove(uid);
        }
        known
    }

    /// What is to be guarded.
    pub(super) fn guards(self) -> Guards {
        // Guaranteed pods are in it, all others one level further down.
        let parents = self.parent.iter().map(|parent| (parent.clone(), Depths::TWO)).collect();
        let all = self.all;
        Guards { parents, all, judge: Arc::new(move |cgroup| self.judge(cgroup)) }
    }

    fn judge(&self, cgroup: &Path) -> Answer {
        let Some(parent) = &self.parent else { return Answer::NotOurs };
        let Ok(below) = cgroup.strip_prefix(parent) else { return Answer::NotOurs };
        let mut directory = parent.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        for name in below {
            // The kubelet writes no name that is no text.
            let Some(name) = name.to_str() else { return Answer::NotOurs };
            match entry(directory, name) {
                Entry::Pod(uid) => return self.pod(&uid),
                Entry::Class => directory = name,
                Entry::Other => return Answer::NotOurs,
            }
        }
        Answer::Between
    }

    fn pod(&self, uid: &str) -> Answer {
        // First of all: who judges has to ask the API server.
        if uid == self.own || self.free.contains(uid) {
            Answer::NotOurs
        } else if self.held.contains(uid) {
            Answer::Held
        } else if is_static(uid) {
            // The API server may be one, and be waited for in vain. They are enrolled as soon as they are known.
            Answer::NotOurs
        } else {
            Answer::Held
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::pod::Pod, *};
    use crate::hbone::baggage::Baggage;

    const OWN: &str = "11111111-1111-1111-1111-111111111111";
    const STATIC: &str = "0123456789abcdef0123456789abcdef";

    fn pods(wishes: &[(&str, Wish)]) -> Pods {
        let pod = |uid: &str, wish| Pod {
            namespace: "web".to_owned(),
            name: uid.to_owned(),
            uid: uid.to_owned(),
            cgroup: uid.to_owned(),
            service_account: "default".to_owned(),
            wish,
            odd: None,
            runs: false,
            ended: false,
            baggage: Baggage::default(),
            condition: None,
        };
        wishes.iter().map(|(uid, wish)| ((*uid).to_owned(), pod(uid, *wish))).collect()
    }

    fn guards(pods: Option<&Pods>, left_alone: &[&str]) -> Guards {
        let left_alone = left_alone.iter().map(|uid| (*uid).to_owned()).collect();
        let known = Known::new(OWN, pods, |uid| uid.starts_with("was"), left_alone);
        Known { parent: Some("/cg/kubepods".into()), all: pods.is_some(), ..known }.guards()
    }

    fn answers(guards: &Guards, expected: &[(&str, Answer)]) {
        for (path, answer) in expected {
            assert_eq!((guards.judge)(Path::new(path)), *answer, "{path}");
        }
    }

    #[test]
    fn who_is_not_known_is_held() {
        let pods = pods(&[
            ("in", Wish::Enrolled),
            ("out", Wish::Nobody),
            ("opted", Wish::OptedOut),
            ("gateway", Wish::Own),
            ("odd", Wish::Unclear),
            ("was-odd", Wish::Unclear),
            // Its namespace was labelled while no agent ran.
            ("changed", Wish::Enrolled),
        ]);
        let guards = guards(Some(&pods), &["ending", "changed"]);
        assert_eq!((guards.parents.len(), guards.all), (1, true));
        assert_eq!(guards.parents[Path::new("/cg/kubepods")], Depths::TWO);
        answers(
            &guards,
            &[
                ("/cg/kubepods/podin", Answer::Held),
                ("/cg/kubepods/burstable/podin", Answer::Held),
                ("/cg/kubepods/burstable/podout", Answer::NotOurs),
                ("/cg/kubepods/besteffort/podopted", Answer::NotOurs),
                ("/cg/kubepods/podgateway", Answer::NotOurs),
                ("/cg/kubepods/pododd", Answer::NotOurs),
                ("/cg/kubepods/podwas-odd", Answer::Held),
                ("/cg/kubepods/podchanged", Answer::Held),
                ("/cg/kubepods/podending", Answer::NotOurs),
                ("/cg/kubepods/podnew", Answer::Held),
                ("/cg/kubepods/besteffort/podnew", Answer::Held),
                ("/cg/kubepods/besteffort", Answer::Between),
                ("/cg/kubepods/other", Answer::NotOurs),
                (&format!("/cg/kubepods/burstable/pod{OWN}"), Answer::NotOurs),
                (&format!("/cg/kubepods/burstable/pod{STATIC}"), Answer::NotOurs),
            ],
        );
    }

    #[test]
    fn a_static_pod_that_is_known_to_be_wanted_is_held() {
        let pods = pods(&[(STATIC, Wish::Enrolled)]);
        answers(&guards(Some(&pods), &[]), &[(&format!("/cg/kubepods/pod{STATIC}"), Answer::Held)]);
    }

    #[test]
    fn before_the_api_has_answered_only_what_was_known_and_must_be_passes() {
        let guards = guards(None, &["ending"]);
        assert!(!guards.all);
        answers(
            &guards,
            &[
                ("/cg/kubepods/podending", Answer::NotOurs),
                ("/cg/kubepods/podnew", Answer::Held),
                (&format!("/cg/kubepods/pod{OWN}"), Answer::NotOurs),
            ],
        );
    }

    #[test]
    fn slices_of_the_system_manager() {
        let pods = pods(&[("a-b", Wish::Nobody)]);
        let known = Known::new(OWN, Some(&pods), |_| false, BTreeSet::new());
        let parent = "/cg/kubelet.slice/kubelet-kubepods.slice";
        let guards = Known { parent: Some(parent.into()), all: true, ..known }.guards();
        answers(
            &guards,
            &[
                (&format!("{parent}/kubelet-kubepods-burstable.slice"), Answer::Between),
                (
                    &format!(
                        "{parent}/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-poda_b.slice"
                    ),
                    Answer::NotOurs,
                ),
                (&format!("{parent}/kubelet-kubepods-podc.slice"), Answer::Held),
            ],
        );
    }
}
