//! What the label `egret.dev/egress` asks for a pod: its own word, else its namespace's. Pure.

use crate::{kubernetes::names::EGRESS, node::pods::Wish};

/// What is asked for a pod.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::kubernetes) struct Asked {
    pub(in crate::kubernetes) what: Wish,
    /// A value that means nothing, in a sentence.
    pub(in crate::kubernetes) odd: Option<String>,
}

/// A value that nobody knows decides nothing: neither does it switch off what the namespace asks, nor does it ask for anything.
pub(in crate::kubernetes) fn decide(pod: Option<&str>, namespace: Option<&str>, is_own: bool) -> Asked {
    let odd = |whose: &str, value: &str| {
        Some(format!("the label {EGRESS}={value:?} of the {whose} means nothing: write enabled or disabled"))
    };
    let (what, odd) = match (pod, namespace) {
        (Some("enabled"), _) | (None, Some("enabled")) => (Wish::Enrolled, None),
        (Some("disabled"), _) => (Wish::OptedOut, None),
        (None, None | Some("disabled")) => (Wish::Nobody, None),
        (Some(value), Some("enabled")) => (Wish::Enrolled, odd("pod", value)),
        (Some(value), _) => (Wish::Unclear, odd("pod", value)),
        (None, Some(value)) => (Wish::Unclear, odd("namespace", value)),
    };
    let what = if is_own && what != Wish::Nobody { Wish::Own } else { what };
    Asked { what, odd }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pods_word_wins_and_nonsense_decides_nothing() {
        for (pod, namespace, what, odd) in [
            (None, None, Wish::Nobody, None),
            (None, Some("enabled"), Wish::Enrolled, None),
            (None, Some("disabled"), Wish::Nobody, None),
            (None, Some("on"), Wish::Unclear, Some("namespace")),
            (Some("enabled"), None, Wish::Enrolled, None),
            (Some("enabled"), Some("disabled"), Wish::Enrolled, None),
            (Some("enabled"), Some("on"), Wish::Enrolled, None),
            (Some("disabled"), Some("enabled"), Wish::OptedOut, None),
            (Some("disabled"), None, Wish::OptedOut, None),
            (Some(""), Some("enabled"), Wish::Enrolled, Some("pod")),
            (Some("Disabled"), Some("enabled"), Wish::Enrolled, Some("pod")),
            (Some("true"), None, Wish::Unclear, Some("pod")),
            (Some("true"), Some("on"), Wish::Unclear, Some("pod")),
        ] {
            let asked = decide(pod, namespace, false);
            assert_eq!(asked.what, what, "{pod:?} {namespace:?}");
            let whose =
                asked.odd.as_deref().map(|odd| if odd.contains("of the pod") { "pod" } else { "namespace" });
            assert_eq!(whose, odd, "{pod:?} {namespace:?}");
        }
    }

    #[test]
    fn egrets_own_are_never_enrolled_whatever_is_asked() {
        for (pod, namespace) in [(Some("enabled"), None), (None, Some("enabled")), (None, Some("on"))] {
            assert_eq!(decide(pod, namespace, true).what, Wish::Own);
        }
        assert_eq!(decide(None, None, true).what, Wish::Nobody);
    }
}
