//! Strict start of bindings: which parents are guarded because of them, and what is ours below. Called by `node::binding`;
//! `node::guard` does the rest. Enrols nothing.

use std::{path::Path, sync::Arc};

use crate::{
    datapath::Depths,
    mesh::{CgroupSelector, Snapshot, WorkloadBinding},
    node::guard::{Answer, Guards},
};

/// Brings what is to be guarded in line with the bindings.
pub(super) fn update(guards: &mut Guards, root: &Path, snapshot: &Snapshot) {
    // What a broken document says is not known, so no guard goes because of it.
    guards.all = snapshot.refused_bindings.is_empty() && !snapshot.may_hold_more_bindings;
    if guards.all {
        guards.parents.clear();
    }
    let selectors = strict(&snapshot.bindings).flat_map(|binding| &binding.cgroups);
    for (parent, depth) in selectors.filter_map(CgroupSelector::parent) {
        let wanted = if depth == 1 { Depths::CHILDREN } else { Depths::TWO };
        let depths = guards.parents.entry(root.join(parent)).or_insert(wanted);
        if wanted == Depths::TWO {
            *depths = wanted;
        }
    }
    let (root, bindings) = (root.to_owned(), snapshot.bindings.clone());
    guards.judge = Arc::new(move |cgroup| judge(&bindings, cgroup.strip_prefix(&root).unwrap_or(cgroup)));
}

fn strict(bindings: &[Arc<WorkloadBinding>]) -> impl Iterator<Item = &WorkloadBinding> {
    bindings.iter().map(|binding| &**binding).filter(|binding| binding.strict_start)
}

/// What the cgroup at this path from the root is. What any binding selects is ours; but only those with a strict start say that
/// there is nothing but cgroups in one.
fn judge(bindings: &[Arc<WorkloadBinding>], cgroup: &Path) -> Answer {
    // A name that is no text is selected by nobody.
    let parts: Option<Vec<&str>> = cgroup.iter().map(|name| name.to_str()).collect();
    let Some(parts) = parts else { return Answer::NotOurs };
    if bindings.iter().any(|binding| binding.selects(&parts)) {
        Answer::Held
    } else if strict(bindings).any(|binding| binding.leads_below(&parts)) {
        Answer::Between
    } else {
        Answer::NotOurs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mesh::{Kind, ObjectRef};

    fn binding(paths: &[&str], strict_start: bool) -> Arc<WorkloadBinding> {
        Arc::new(WorkloadBinding {
            object: ObjectRef::new(Kind::WorkloadBinding, "ops", "b"),
            created: "".into(),
            service_account: "backup".into(),
            cgroups: paths.iter().map(|path| CgroupSelector::path(path).unwrap()).collect(),
            strict_start,
            existing_connections: None,
        })
    }

    fn parents(guards: &Guards) -> Vec<(&str, Depths)> {
        guards.parents.iter().map(|(path, depths)| (path.to_str().unwrap(), *depths)).collect()
    }

    #[test]
    fn strict_bindings_have_their_parents_guarded() {
        let bindings = vec![
            binding(&["pods/*/pod*", "pods/pod*", "m/*"], true),
            binding(&["system.slice/x.service", "pods/slice/other"], false),
        ];
        let snapshot = Snapshot { bindings, ..Snapshot::default() };
        let mut guards = Guards::unknown();
        update(&mut guards, Path::new("/cg"), &snapshot);
        assert!(guards.all);
        assert_eq!(parents(&guards), [("/cg/m", Depths::CHILDREN), ("/cg/pods", Depths::TWO)]);
        for (path, answer) in [
            ("/cg/pods/pod1", Answer::Held),
            ("/cg/pods/slice", Answer::Between),
            ("/cg/pods/slice/pod2", Answer::Held),
            ("/cg/pods/slice/other", Answer::Held),
            ("/cg/pods/slice/thing", Answer::NotOurs),
            ("/cg/m/x", Answer::Held),
            ("/cg/system.slice", Answer::NotOurs),
        ] {
            assert_eq!((guards.judge)(Path::new(path)), answer, "{path}");
        }
    }

    #[test]
    fn a_broken_document_takes_no_guard_away() {
        let mut snapshot = Snapshot { bindings: vec![binding(&["m/*"], true)], ..Snapshot::default() };
        let mut guards = Guards::unknown();
        update(&mut guards, Path::new("/cg"), &snapshot);
        snapshot.bindings.clear();
        snapshot.may_hold_more_bindings = true;
        update(&mut guards, Path::new("/cg"), &snapshot);
        assert_eq!((guards.all, parents(&guards)), (false, vec![("/cg/m", Depths::CHILDREN)]));
        snapshot.may_hold_more_bindings = false;
        update(&mut guards, Path::new("/cg"), &snapshot);
        assert_eq!((guards.all, parents(&guards)), (true, vec![]));
    }
}
