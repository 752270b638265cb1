//! What capture costs when there is much of it: descriptors, and a map that is full.

use std::{fs, time::Instant};

use egret_tests::foreign;

use crate::lab::Lab;

#[test]
fn a_full_map_of_destinations_fails_closed() {
    let Some(lab) = Lab::new("a_full_map_of_destinations_fails_closed") else { return };
    lab.enrol();
    let mut application = lab.inside();
    let map = foreign::open_pin(&lab.maps().join("egret_original")).unwrap();
    assert_eq!(foreign::fill(&map).unwrap(), 65_536);
    for failed in 1..=3 {
        assert_eq!(application.connect("203.0.113.7:80"), "ok 203.0.113.7:80");
        // None: the agent resets it. Nobody's destination is taken for it.
        assert_eq!(lab.take(true).1, None);
        assert_eq!(lab.count("publish_failed"), failed);
    }
    assert_eq!(lab.count("published"), 0);
    assert_eq!(application.connect("[2001:db8:7::7]:80"), "ok [2001:db8:7::7]:80");
    assert_eq!(lab.take(false).1, None);

    foreign::make_room(&map).unwrap();
    assert_eq!(application.connect("203.0.113.8:80"), "ok 203.0.113.8:80");
    assert_eq!(lab.take(true).1, Some("203.0.113.8:80".parse().unwrap()));
    assert_eq!(lab.count("published"), 1);
}

/// Descriptors of links and programs that this process has open.
fn open_links() -> usize {
    let descriptors = fs::read_dir("/proc/self/fd").expect("descriptors").flatten();
    let names = descriptors.filter_map(|one| fs::read_link(one.path()).ok());
    names.filter(|name| name.to_string_lossy().starts_with("anon_inode:bpf_link")).count()
}

#[test]
fn attaching_to_250_cgroups_keeps_no_descriptors() {
    let Some(lab) = Lab::new("attaching_to_250_cgroups_keeps_no_descriptors") else { return };
    let cgroups: Vec<_> =
        (0..250).map(|number| lab.cgroup.child(&format!("workload-{number}")).unwrap()).collect();
    let begin = Instant::now();
    for cgroup in &cgroups {
        lab.capture.attach(cgroup.path(), &lab.policy()).unwrap();
    }
    let attached = begin.elapsed();
    let pinned = fs::read_dir(lab.links()).unwrap().count();
    let open = open_links();
    let begin = Instant::now();
    for cgroup in &cgroups {
        lab.capture.detach(cgroup.inode().unwrap()).unwrap();
    }
    let detached = begin.elapsed();
    eprintln!(
        "{pinned} links attached in {attached:?}, detached in {detached:?}; {open} descriptors of links open"
    );
    assert!(pinned >= 2_250, "{pinned}");
    // Other tests of this process may be attaching just now.
    assert!(open < 100, "{open} descriptors");
    assert_eq!(fs::read_dir(lab.links()).unwrap().count(), 0);
}
