//! What is said of a pod: pure. A pod counts as captured only when everything that captures it was found to work.

use super::pod::{Pod, Said, Wish};

/// How it stands with a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has no cgroup (yet).
    Missing,
    /// It is not enrolled; why, where it should be.
    Free(Option<String>),
    /// It is enrolled, and not all of it works: what is in the way.
    Broken(String),
    /// It is enrolled, and everything works, but for what is said.
    Captured(Option<String>),
}

/// What to say; nothing where a pod is nobody's concern, or it is too early.
pub(super) fn verdict(pod: &Pod, standing: &Standing) -> Option<Said> {
    let agent = concat!("egret agent ", env!("CARGO_PKG_VERSION"));
    if pod.ended {
        return None;
    }
    let (holds, reason, message) = match (pod.wish, standing) {
        (_, Standing::Captured(but)) => {
            let reason = if pod.wish == Wish::Unclear { "InvalidLabel" } else { "Captured" };
            let mut message = vec![format!("captured by {agent}")];
            message.extend(but.iter().chain(&pod.odd).cloned());
            (true, reason, message.join("; "))
        }
        (_, Standing::Broken(why)) => (false, "CannotCapture", format!("{agent} cannot capture it: {why}")),
        (Wish::Enrolled, Standing::Free(why)) => {
            let why = why.as_deref().unwrap_or("it has not been tried yet");
            (false, "CannotCapture", format!("{agent} cannot capture it: {why}"))
        }
        (Wish::Enrolled, Standing::Missing) if pod.runs => {
            let uid = &pod.cgroup;
            (
                false,
                "NotFound",
                format!("{agent} cannot capture it: there is no cgroup of a pod {uid} on its node"),
            )
        }
        (Wish::Own, _) => (
            false,
            "AgentOwnPod",
            "not captured: it is a pod of Egret itself, and carries what others send".to_owned(),
        ),
        (Wish::Unclear, _) => {
            (false, "InvalidLabel", format!("not captured: {}", pod.odd.as_deref().unwrap_or_default()))
        }
        (Wish::OptedOut, _) => {
            (false, "Disabled", "not captured: its label egret.dev/egress says disabled".to_owned())
        }
        (Wish::Nobody, _) if pod.condition.is_some() => (
            false,
            "Disabled",
            "not captured: neither it nor its namespace has the label egret.dev/egress=enabled".to_owned(),
        ),
        (Wish::Enrolled, Standing::Missing) | (Wish::Nobody, _) => return None,
    };
    Some(Said { holds, reason: reason.to_owned(), message })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{super::pod::Condition, *};
    use crate::hbone::baggage::Baggage;

    fn pod(wish: Wish) -> Pod {
        Pod {
            namespace: "web".to_owned(),
            name: "p".to_owned(),
            uid: "u".to_owned(),
            cgroup: "u".to_owned(),
            service_account: "default".to_owned(),
            wish,
            odd: (wish == Wish::Unclear).then(|| "label on means nothing".to_owned()),
            runs: true,
            ended: false,
            baggage: Baggage::default(),
            condition: None,
        }
    }

    fn said(pod: &Pod, standing: &Standing) -> (bool, String) {
        verdict(pod, standing).map(|said| (said.holds, said.reason)).expect("something is said")
    }

    #[test]
    fn captured_is_only_said_where_everything_works() {
        let why = || "listener".to_owned();
        let captured = Standing::Captured(None);
        for (wish, standing, expected) in [
            (Wish::Enrolled, &captured, (true, "Captured")),
            (Wish::Enrolled, &Standing::Broken(why()), (false, "CannotCapture")),
            (Wish::Enrolled, &Standing::Free(Some(why())), (false, "CannotCapture")),
            (Wish::Enrolled, &Standing::Free(None), (false, "CannotCapture")),
            (Wish::Enrolled, &Standing::Missing, (false, "NotFound")),
            (Wish::Own, &Standing::Free(None), (false, "AgentOwnPod")),
            (Wish::Unclear, &Standing::Free(None), (false, "InvalidLabel")),
            (Wish::Unclear, &captured, (true, "InvalidLabel")),
            (Wish::OptedOut, &Standing::Free(None), (false, "Disabled")),
            // It could not be released.
            (Wish::OptedOut, &captured, (true, "Captured")),
        ] {
            let expected = (expected.0, expected.1.to_owned());
            assert_eq!(said(&pod(wish), standing), expected, "{wish:?} {standing:?}");
        }
    }

    #[test]
    fn the_sentence_has_version_and_remarks() {
        let said =
            verdict(&pod(Wish::Unclear), &Standing::Captured(Some("no link (host network)".to_owned())));
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            said.unwrap().message,
            format!("captured by egret agent {version}; no link (host network); label on means nothing")
        );
    }

    #[test]
    fn nothing_is_said_too_early_or_where_nobody_asked() {
        let starting = Pod { runs: false, ..pod(Wish::Enrolled) };
        assert_eq!(verdict(&starting, &Standing::Missing), None);
        assert_eq!(verdict(&Pod { ended: true, ..pod(Wish::Enrolled) }, &Standing::Captured(None)), None);
        assert_eq!(verdict(&pod(Wish::Nobody), &Standing::Free(None)), None);
        let condition = Condition {
            holds: true,
            reason: "Captured".to_owned(),
            message: String::new(),
            since: Timestamp::UNIX_EPOCH,
        };
        let was_captured = Pod { condition: Some(condition), ..pod(Wish::Nobody) };
        assert_eq!(said(&was_captured, &Standing::Free(None)), (false, "Disabled".to_owned()));
    }
}
