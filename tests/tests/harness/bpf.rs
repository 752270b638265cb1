//! The proof that nothing is attached can fail: it sees a program that is.

use std::time::Duration;

use anyhow::Result;
use egret_tests::{bpf, cgroup::Cgroup, foreign, privileges, wait};

/// `BPF_CGROUP_INET_EGRESS`.
const EGRESS: u32 = 1;

#[test]
fn sees_what_is_attached_and_when_it_is_gone() -> Result<()> {
    if !privileges::kernel_or_skip("the query of attached programs") {
        return Ok(());
    }
    let parent = Cgroup::new()?;
    let child = parent.child("child")?;
    assert!(bpf::attached(parent.path())?.is_empty());

    let program = foreign::allowing(foreign::EGRESS, None)?;
    foreign::attach_exclusively(parent.path(), foreign::EGRESS, &program)?;
    let seen = bpf::attached(parent.path())?;
    assert_eq!(seen.iter().map(|(attach_type, _)| *attach_type).collect::<Vec<_>>(), [EGRESS]);
    assert!(bpf::attached(child.path())?.is_empty());
    assert!(bpf::effective(child.path())?.is_superset(&seen));
    assert!(bpf::effective(&bpf::own_cgroup()?)?.is_disjoint(&seen));
    let id = seen.first().map_or(0, |(_, id)| *id);
    assert!(bpf::is_loaded(id)?);

    drop((program, child, parent));
    // The kernel lets go of a removed cgroup's programs a little later.
    assert!(wait::settled(Duration::from_secs(10), || { bpf::is_loaded(id).is_ok_and(|loaded| !loaded) }));
    Ok(())
}
