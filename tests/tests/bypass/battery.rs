//! `egret verify-bypass` with a witness: no way out of a workload, every way out without one.

use std::time::Duration;

use anyhow::{Context as _, Result};
use egret_tests::{process::Process, wait};

use crate::{
    linked::{Linked, Privileges},
    rig::{Battery, Rig, Subject},
};

/// What must hold in every workload.
const HELD: [&str; 26] = [
    "tcp connect",
    "tcp non-blocking connect",
    "tcp fast open",
    "tcp io_uring connect",
    "tcp reconnect after AF_UNSPEC",
    "tcp v4-mapped",
    "tcp ipv6",
    "tcp SO_MARK",
    "tcp source route",
    "tcp repair",
    "mptcp",
    "other uid",
    "nested cgroup",
    "nested network namespace",
    "udp sendto",
    "udp connected",
    "udp ipv6",
    "quic (udp 443)",
    "dns to a foreign resolver",
    "udp source route",
    "icmp ping socket",
    "raw icmp",
    "raw ip protocol 253",
    "raw packet, header included",
    "the listener's own port",
    "the gateway without a certificate",
];

/// What reaches the witness by the gateway.
const CAPTURED: [&str; 6] =
    ["tcp connect", "tcp v4-mapped", "tcp ipv6", "tcp SO_MARK", "other uid", "nested cgroup"];

/// What a kernel may be built or configured without.
const OPTIONAL: [&str; 9] = [
    "tcp io_uring connect",
    "tcp fast open",
    "mptcp",
    "sctp",
    "udp-lite",
    "af_xdp",
    "tun device, forwarded",
    "udp answer to a made-up caller",
    "vxlan device",
];

/// What no cgroup program can hold in the host's network namespace, for a workload that is root: the host's own lock on the
/// link of a namespace does (`an_own_namespace_lets_nothing_out`). Shown as escapes, and not asserted.
const ONLY_WITH_AN_OWN_NAMESPACE: [&str; 11] = [
    "moved to the root cgroup",
    "tcp socket from before enrolment",
    "tcp socket passed in (SCM_RIGHTS)",
    "udp socket passed in (SCM_RIGHTS)",
    "tcp socket taken (pidfd_getfd)",
    "af_packet",
    "af_packet past the queues",
    "af_xdp",
    "tun device, forwarded",
    "udp answer to a made-up caller",
    "vxlan device",
];

/// What Egret itself would have to offer, and what is no address of ours.
const EGRETS: [&str; 4] = [
    "the listener's own port",
    "another workload's listener",
    "the gateway without a certificate",
    "tcp metadata address",
];

/// What takes more than the capabilities of a container.
const PRIVILEGED: [&str; 7] = [
    "tcp repair",
    "tcp socket taken (pidfd_getfd)",
    "nested network namespace",
    "an ancestor's network namespace",
    "tun device, forwarded",
    "udp answer to a made-up caller",
    "vxlan device",
];

#[expect(clippy::print_stderr, reason = "addressed to whoever runs the tests")]
fn show(subject: impl std::fmt::Debug, battery: &Battery) {
    eprintln!("{subject:?}:");
    for (vector, (verdict, seen)) in &battery.vectors {
        eprintln!("  {vector:<36}{verdict:<15}{seen}");
    }
}

/// What routers drop.
const NOT_FORWARDED: [&str; 2] = ["tcp source route", "udp source route"];

/// Every vector got out, but for those that cannot be tried for a reason, or because of `excused`.
fn all_escaped(battery: &Battery, excused: &[&str]) {
    assert!(battery.failed, "escapes have to fail");
    for (vector, (verdict, seen)) in &battery.vectors {
        let vector = vector.as_str();
        let may_be_absent = [&EGRETS[..], &OPTIONAL, excused].concat().contains(&vector);
        assert!(
            verdict == "escaped" || (verdict == "not_available" && may_be_absent),
            "{vector}: {verdict}, {seen}"
        );
    }
    assert!(battery.with("escaped").len() >= 20, "{:?}", battery.with("escaped"));
}

#[test]
fn a_workload_of_the_host_network_gets_nothing_out() -> Result<()> {
    let Some(rig) = Rig::start("a_workload_of_the_host_network_gets_nothing_out")? else { return Ok(()) };
    let battery = rig.battery(Subject::Enrolled)?;
    show(Subject::Enrolled, &battery);
    assert_eq!(battery.report["watched"], true, "{}", battery.report);
    for vector in HELD {
        let verdict = battery.verdict(vector);
        let absent = OPTIONAL.contains(&vector) && verdict == "not_available";
        assert!(verdict == "held" || absent, "{vector}: {:?}", battery.vectors.get(vector));
    }
    let escaped = battery.with("escaped");
    let unknown: Vec<_> = escaped.iter().filter(|one| !ONLY_WITH_AN_OWN_NAMESPACE.contains(one)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert_eq!(battery.failed, !escaped.is_empty(), "the exit status tells");
    assert_eq!(battery.with("unproven"), Vec::<&str>::new());
    // Captured, and not only refused: the witness was reached, by the gateway.
    for vector in CAPTURED {
        assert!(battery.vectors[vector].1.starts_with("captured: the witness talked to"), "{vector}");
    }
    Ok(())
}

#[test]
fn another_workloads_listener_serves_nobody_else() -> Result<()> {
    let Some(rig) = Rig::start("another_workloads_listener_serves_nobody_else")? else { return Ok(()) };
    let mut command = rig.world.egret.exec("default/other", false);
    let other = Process::spawn("another workload", command.args(["sleep", "60"]))?;
    let listener = wait::until("its listener", Duration::from_secs(10), || Ok(rig.listeners()?.pop()))?;
    let target = rig.target();
    let battery = rig.run(Subject::Enrolled, &["--target", &target, "--listener", &listener])?;
    assert_eq!(battery.verdict("another workload's listener"), "held", "{}", battery.report);
    assert_eq!(battery.verdict("the listener's own port"), "held", "{}", battery.report);
    drop(other);
    Ok(())
}

#[test]
fn an_own_namespace_lets_nothing_out() -> Result<()> {
    let Some(rig) = Rig::start("an_own_namespace_lets_nothing_out")? else { return Ok(()) };
    let battery = rig.battery(Subject::Isolated)?;
    show(Subject::Isolated, &battery);
    assert_eq!(battery.report["watched"], true, "{}", battery.report);
    // Sockets handed in belong to the namespace that they come from: nothing in this one can hold them.
    let handed_in = battery.with("escaped");
    assert!(
        handed_in.iter().all(|vector| vector.contains("passed in")
            || vector.contains("before enrolment")
            || vector.contains("taken")),
        "{handed_in:?}"
    );
    assert_eq!(battery.verdict("tcp connect"), "held");
    assert_eq!(battery.verdict("moved to the root cgroup"), "held");
    assert_eq!(battery.verdict("an ancestor's network namespace"), "held");
    Ok(())
}

#[test]
fn without_enrolment_everything_gets_out() -> Result<()> {
    let Some(rig) = Rig::start("without_enrolment_everything_gets_out")? else { return Ok(()) };
    let battery = rig.battery(Subject::Unenrolled)?;
    show(Subject::Unenrolled, &battery);
    assert_eq!(battery.report["watched"], true, "{}", battery.report);
    // The host's own namespace has none above it.
    all_escaped(&battery, &["an ancestor's network namespace"]);
    // A second run is not taken in by what the witness got in the first.
    let enrolled = rig.battery(Subject::Enrolled)?;
    assert_eq!(enrolled.verdict("tcp connect"), "held");
    assert_eq!(enrolled.verdict("udp sendto"), "held");
    Ok(())
}

#[test]
fn without_enrolment_everything_gets_out_of_an_own_namespace_with_a_link() -> Result<()> {
    let Some(rig) = Rig::start("without_enrolment_everything_gets_out_of_an_own_namespace_with_a_link")?
    else {
        return Ok(());
    };
    let linked = Linked::start(&rig)?;
    let before = linked.belongings()?;
    for (privileges, excused) in [(Privileges::Root, &[][..]), (Privileges::Container, &PRIVILEGED)] {
        let mut battery = linked.battery(&rig, privileges)?;
        show(privileges, &battery);
        assert_eq!(battery.report["watched"], true, "{}", battery.report);
        let routed = |vector: &String, _: &mut _| !NOT_FORWARDED.contains(&vector.as_str());
        battery.vectors.retain(routed);
        all_escaped(&battery, excused);
        assert_eq!(linked.belongings()?, before, "what the battery made is gone");
    }
    Ok(())
}

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
    let workload = linked.enrol(&rig)?;
    for (privileges, excused) in [(Privileges::Root, &[][..]), (Privileges::Container, &PRIVILEGED)] {
        let before = dropped_at_the_link(&rig)?;
        let battery = linked.battery(&rig, privileges)?;
        show(privileges, &battery);
        assert_eq!(battery.report["watched"], true, "{}", battery.report);
        assert!(!battery.failed, "{:?}", battery.with("escaped"));
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
        let needed = ONLY_WITH_AN_OWN_NAMESPACE.iter().filter(|vector| battery.verdict(vector) == "held");
        let (needed, dropped) = (needed.count() as u64, dropped_at_the_link(&rig)? - before);
        assert!(dropped >= needed, "{dropped} packets of at least {needed}");
    }
    drop(workload);
    Ok(())
}
