//! The whole promise, for a workload as a pod is one: a network namespace of its own whose link is locked, root inside, and
//! neighbours who help.

use anyhow::{Context as _, Result};

use crate::{
    battery::{CAPTURED, EGRETS, ONLY_WITH_AN_OWN_NAMESPACE, OPTIONAL, PRIVILEGED, show},
    linked::{Linked, Privileges},
    rig::Rig,
};

/// What nothing holds: root of the node's own user namespace has the node's network do it.
const NODE: [&str; 1] = ["vxlan device of the node"];

/// What the lock on the link has dropped.
fn dropped_at_the_link(rig: &Rig) -> Result<u64> {
    let status = rig.world.egret.status()?;
    let dropped = status["agent"]["counters"]["link_dropped_destination"].as_u64();
    dropped.with_context(|| format!("no such counter: {status}"))
}

#[test]
fn an_own_namespace_with_a_locked_link_lets_nothing_out() -> Result<()> {
    let Some(rig) = Rig::start("an_own_namespace_with_a_locked_link_lets_nothing_out")? else {
        return Ok(());
    };
    let linked = Linked::start(&rig)?;
    linked.enrol(&rig)?;
    for (privileges, excused, open) in
        [(Privileges::Root, &[][..], &NODE[..]), (Privileges::Container, &PRIVILEGED, &[])]
    {
        let before = dropped_at_the_link(&rig)?;
        let battery = linked.battery(&rig, privileges)?;
        show(privileges, &battery);
        assert_eq!(battery.report["watched"], true, "{}", battery.report);
        let escaped = battery.with("escaped");
        assert!(escaped.iter().all(|vector| open.contains(vector)), "{escaped:?}");
        for (vector, (verdict, seen)) in &battery.vectors {
            let may_be_absent = [&EGRETS[..], &OPTIONAL, excused].concat().contains(&vector.as_str());
            assert!(
                verdict == "held"
                    || open.contains(&vector.as_str())
                    || (verdict == "not_available" && may_be_absent),
                "{vector}: {verdict}, {seen}"
            );
        }
        for vector in CAPTURED {
            let absent = battery.verdict(vector) == "not_available";
            let seen = &battery.vectors[vector].1;
            assert!(absent || seen.starts_with("captured: the witness talked to"), "{vector}: {seen}");
        }
        // What nothing else holds was dropped there, and did not get lost on the way.
        let needed = ONLY_WITH_AN_OWN_NAMESPACE.iter().filter(|vector| battery.verdict(vector) == "held");
        let (needed, dropped) = (needed.count() as u64, dropped_at_the_link(&rig)? - before);
        assert!(dropped >= needed, "{dropped} packets of at least {needed}");
    }
    Ok(())
}
