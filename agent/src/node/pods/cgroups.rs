//! How the cgroups of pods are called: pure. Asked by [`super::tree`].
//!
//! The kubelet makes one directory for all pods, in it one for each class of service but the guaranteed, and in these one per pod,
//! before the pod's sandbox starts. What the runtime makes in a pod's directory (`cri-containerd-<id>.scope`, `crio-<id>.scope`, …)
//! does not matter: the pod's directory is what is enrolled.
//!
//! | driver | all pods | burstable | a pod |
//! |---|---|---|---|
//! | cgroupfs | `kubepods` | `burstable` | `pod<uid>` |
//! | systemd | `kubepods.slice` | `kubepods-burstable.slice` | `kubepods-burstable-pod<uid, _ for ->.slice` |
//!
//! With a root of its own (`--cgroup-root`, as kind has) systemd's slices carry the names of those above: `kubelet-kubepods.slice`.

/// How the directory of all pods may be called.
const ALL: &str = "kubepods";
/// The directories of the classes of service.
const CLASSES: [&str; 2] = ["burstable", "besteffort"];
const SLICE: &str = ".slice";

/// A directory among those of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// That of the pod with this uid, as the kubelet writes it.
    Pod(String),
    /// Pods of one class of service.
    Class,
    /// Something else.
    Other,
}

/// Whether a directory of this name has all pods in it.
pub(super) fn holds_pods(name: &str) -> bool {
    match name.strip_suffix(SLICE) {
        None => name == ALL,
        Some(slice) => slice.rsplit('-').next() == Some(ALL),
    }
}

/// What `name` is in a directory with pods, whose own name is `parent`.
pub(super) fn entry(parent: &str, name: &str) -> Entry {
    let Some(above) = parent.strip_suffix(SLICE) else {
        return match name.strip_prefix("pod") {
            Some(uid) if !uid.is_empty() => Entry::Pod(uid.to_owned()),
            _ if parent == ALL && CLASSES.contains(&name) => Entry::Class,
            _ => Entry::Other,
        };
    };
    let below = name
        .strip_suffix(SLICE)
        .and_then(|slice| slice.strip_prefix(above)?.strip_prefix('-'))
        .filter(|below| !below.contains('-'));
    match below.map(|below| (below, below.strip_prefix("pod"))) {
        // A hyphen in a slice's name stands for a slice above.
        Some((_, Some(uid))) if !uid.is_empty() => Entry::Pod(uid.replace('_', "-")),
        Some((class, _)) if holds_pods(parent) && CLASSES.contains(&class) => Entry::Class,
        _ => Entry::Other,
    }
}

/// Whether a pod with this uid is static: the kubelet gives it a hash, which has no hyphens. The API server may be one itself.
pub(super) fn is_static(uid: &str) -> bool {
    uid.len() == 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0f3a5c1e-1d2b-4c5d-8e9f-001122334455";
    const SLICED: &str = "0f3a5c1e_1d2b_4c5d_8e9f_001122334455";
    const STATIC: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn the_directory_of_all_pods() {
        for name in ["kubepods", "kubepods.slice", "kubelet-kubepods.slice", "a-b-kubepods.slice"] {
            assert!(holds_pods(name), "{name}");
        }
        for name in
            ["kubepods.scope", "kubelet.slice", "kubepods-burstable.slice", "mykubepods", "mykubepods.slice"]
        {
            assert!(!holds_pods(name), "{name}");
        }
    }

    #[test]
    fn both_drivers_and_both_depths() {
        let pod = |uid: &str| Entry::Pod(uid.to_owned());
        for (parent, name, expected) in [
            ("kubepods", format!("pod{UID}"), pod(UID)),
            ("kubepods", "burstable".to_owned(), Entry::Class),
            ("kubepods", "besteffort".to_owned(), Entry::Class),
            ("kubepods", "pod".to_owned(), Entry::Other),
            ("kubepods", "other".to_owned(), Entry::Other),
            ("burstable", format!("pod{UID}"), pod(UID)),
            ("burstable", format!("pod{STATIC}"), pod(STATIC)),
            ("burstable", "besteffort".to_owned(), Entry::Other),
            ("kubepods.slice", format!("kubepods-pod{SLICED}.slice"), pod(UID)),
            ("kubepods.slice", "kubepods-burstable.slice".to_owned(), Entry::Class),
            ("kubepods.slice", "kubepods-besteffort.slice".to_owned(), Entry::Class),
            ("kubepods.slice", "burstable".to_owned(), Entry::Other),
            ("kubepods-burstable.slice", format!("kubepods-burstable-pod{SLICED}.slice"), pod(UID)),
            ("kubepods-besteffort.slice", format!("kubepods-besteffort-pod{STATIC}.slice"), pod(STATIC)),
            ("kubepods-burstable.slice", format!("kubepods-besteffort-pod{SLICED}.slice"), Entry::Other),
            ("kubelet-kubepods.slice", "kubelet-kubepods-burstable.slice".to_owned(), Entry::Class),
            (
                "kubelet-kubepods-burstable.slice",
                format!("kubelet-kubepods-burstable-pod{SLICED}.slice"),
                pod(UID),
            ),
            ("kubelet-kubepods.slice", format!("kubelet-kubepods-pod{SLICED}.slice"), pod(UID)),
            ("kubelet-kubepods.slice", format!("kubepods-pod{SLICED}.slice"), Entry::Other),
            ("kubepods.slice", format!("cri-containerd-{UID}.scope"), Entry::Other),
        ] {
            assert_eq!(entry(parent, &name), expected, "{parent}/{name}");
        }
    }

    #[test]
    fn static_pods_have_no_hyphens() {
        assert!(is_static(STATIC));
        assert!(!is_static(UID) && !is_static("0123"));
    }
}
