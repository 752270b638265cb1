//! The whole promise, for a workload as a pod is one: a network namespace of its own whose link is locked, root inside, and
//! neighbours who help.

use anyhow::{Context as _, Result};

use crate::{
    battery::{CAPTURED, EGRETS, ONLY_WITH_AN_OWN_NAMESPACE, OPTIONAL, PRIVILEGED, show},
    linked::{Linked, Privileges},
    rig::Rig,
};

/// What never comes by the link, and is refused before.
const NODE: &str = "vxlan device of the node";

/// What the lock on the link has dropped, and what was refused in the node's network.
fn counted(rig: &Rig) -> Result<[u64; 2]> {
    let status = rig.world.egret.status()?;
    let counter = |name: &str| {
        let count = status["agent"]["counters"][name].as_u64();
        count.with_context(|| format!("no counter {name}: {status}"))
    };
    Ok([counter("link_dropped_destination")?, counter("refused_node_socket")?])
}

#[test]
fn an_own_namespace_with_a_locked_link_lets_nothing_out() -> Result<()> {
    let Some(rig) = Rig::start("an_own_namespace_with_a_locked_link_lets_nothing_out")? else {
        return Ok(());
    };
    let linked = Linked::start(&rig)?;
    linked.enrol(&rig)?;
    for (privileges, excused) in [(Privileges::Root, &[][..]), (Privileges::Container, &PRIVILEGED)] {
        let [dropped_before, refused_before] = counted(&rig)?;
        let battery = linked.battery(&rig, privileges)?;
        show(privileges, &battery);
        assert_eq!(battery.report["watched"], true, "{}", battery.report);
        assert_eq!(battery.with("escaped"), Vec::<&str>::new());
        for (vector, (verdict, seen)) in &battery.vectors {
            let may_be_absent = [&EGRETS[..], &OPTIONAL, excused].concat().contains(&vector.as_str());
            assert!(
                verdict == "held" || (verdict == "not_available" && may_be_absent),
                "{vector}: {verdict}, {seen}"
            );
        }
        for vector in CAPTURED {
            let absent = battery.verdict(vector) == "not_available";
            let seen = &battery.vectors[vector].1;
            assert!(absent || seen.starts_with("captured: the witness talked to"), "{vector}: {seen}");
        }
        // What nothing else holds was dropped there, and did not get lost on the way.
        let held = |vector: &str| battery.verdict(vector) == "held";
        let needed = ONLY_WITH_AN_OWN_NAMESPACE.iter().filter(|vector| **vector != NODE && held(vector));
        let [dropped, refused] = counted(&rig)?;
        let (needed, dropped) = (needed.count() as u64, dropped - dropped_before);
        assert!(dropped >= needed, "{dropped} packets of at least {needed}");
        assert_eq!(refused > refused_before, held(NODE), "{NODE}: {}", battery.verdict(NODE));
    }
    Ok(())
}
