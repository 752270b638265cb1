//! Attaching, detaching, the agent's death, and its successor.

use std::{collections::BTreeSet, fs, time::Duration};

use egret::datapath::{self, Capture};
use egret_tests::{bpf, foreign};
use nix::errno::Errno;

use crate::lab::{Lab, OUTSIDE_V4, WORKLOAD, assert_idle, errno, listen, port};

/// The connection of an application that is not captured.
fn assert_direct(application: &mut crate::lab::Application) {
    let server = listen(&format!("{OUTSIDE_V4}:0"));
    let address = server.local_addr().expect("a listener has an address").to_string();
    assert_eq!(application.connect(&address), format!("ok {address}"));
    server.accept().expect("went direct");
}

#[test]
fn after_detach_nothing_is_captured() {
    let Some(lab) = Lab::new("after_detach_nothing_is_captured") else { return };
    let mut application = lab.inside();
    assert_direct(&mut application);
    lab.enrol();
    assert_eq!(application.connect("203.0.113.7:80"), "ok 203.0.113.7:80");
    lab.capture.detach(lab.cgroup.inode().unwrap()).unwrap();
    let captured = lab.count("captured");
    assert_direct(&mut application);
    assert_eq!(lab.count("captured"), captured);
    assert_eq!(fs::read_dir(lab.links()).unwrap().count(), 0, "no pin is left");
    lab.capture.detach(lab.cgroup.inode().unwrap()).expect("detaching twice is fine");
}

#[test]
fn a_removed_cgroup_can_be_detached() {
    let Some(mut lab) = Lab::new("a_removed_cgroup_can_be_detached") else { return };
    lab.enrol();
    let inode = lab.cgroup.inode().unwrap();
    lab.cgroup = egret_tests::cgroup::Cgroup::new().unwrap();
    lab.capture.detach(inode).unwrap();
    assert_eq!(fs::read_dir(lab.links()).unwrap().count(), 0, "no pin is left");
}

#[test]
fn a_dead_agent_means_refused_until_cleanup() {
    let Some(lab) = Lab::new("a_dead_agent_means_refused_until_cleanup") else { return };
    lab.enrol();
    let mut application = lab.inside();
    // Everything that the agent's process holds goes; what is pinned stays.
    let Lab { capture, cgroup, listener_v4, listener_v6, pins, mount } = lab;
    drop((capture, listener_v4, listener_v6));
    let server = listen(&format!("{OUTSIDE_V4}:0"));
    for address in [format!("{OUTSIDE_V4}:{}", port(&server)), "[2001:db8:7::7]:80".to_owned()] {
        assert_eq!(application.connect(&address), errno(Errno::ECONNREFUSED), "{address}");
    }
    assert_idle(&server);

    datapath::cleanup(&pins).unwrap();
    assert!(!pins.exists(), "nothing is left");
    assert_direct(&mut application);
    drop((cgroup, mount));
}

#[test]
fn a_restarted_agent_takes_over() {
    let Some(mut lab) = Lab::new("a_restarted_agent_takes_over") else { return };
    lab.enrol();
    let mut application = lab.inside();
    assert_eq!(application.connect("203.0.113.7:80"), "ok 203.0.113.7:80");
    let pinned = || {
        let mut names: Vec<_> =
            fs::read_dir(lab.links()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = pinned();
    assert_eq!(before.len(), bpf::WORKLOAD_PROGRAMS);

    // A new process has new listeners, the same maps, and the same links.
    let successor = Capture::load(&lab.pins).unwrap();
    let (peer, old) = (lab.listener_v4.accept().unwrap().1, "203.0.113.7:80".parse().unwrap());
    assert_eq!(
        successor
            .take_original_destination(WORKLOAD, peer, port(&lab.listener_v4))
            .map(|taken| taken.destination),
        Some(old),
        "maps are shared"
    );
    let listener = listen("127.0.0.1:0");
    let mut policy = lab.policy();
    policy.listener_v4 = port(&listener);
    successor.attach(lab.cgroup.path(), &policy).unwrap();
    assert_eq!(pinned(), before, "links stay");
    drop(std::mem::replace(&mut lab.listener_v4, listener));

    assert_eq!(application.connect("203.0.113.8:80"), "ok 203.0.113.8:80");
    let (_, peer) = lab.listener_v4.accept().unwrap();
    let expected = Some("203.0.113.8:80".parse().unwrap());
    assert_eq!(
        successor
            .take_original_destination(WORKLOAD, peer, port(&lab.listener_v4))
            .map(|taken| taken.destination),
        expected
    );
    assert_eq!(lab.count("captured"), 2, "each connection was seen by one set of programs");
}

#[test]
fn what_an_older_agent_did_not_attach_is_attached_by_its_successor() {
    let Some(lab) = Lab::new("what_an_older_agent_did_not_attach_is_attached_by_its_successor") else {
        return;
    };
    lab.enrol();
    let mut application = lab.inside();
    // What an agent without the backstop leaves behind.
    let links = lab.links();
    for entry in fs::read_dir(&links).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if ["gress", "create", "bind", "release", "send", "recv"].iter().any(|new| name.contains(new)) {
            fs::remove_file(&path).unwrap();
        }
    }
    for map in ["egret_resolvers", "egret_numbered", "egret_accepted", "egret_spoken", "egret_calls"] {
        fs::remove_file(lab.maps().join(map)).unwrap();
    }
    assert_eq!(fs::read_dir(&links).unwrap().count(), 4);
    let successor = Capture::load(&lab.pins).unwrap();
    successor.attach(lab.cgroup.path(), &lab.policy()).unwrap();
    assert_eq!(fs::read_dir(&links).unwrap().count(), bpf::WORKLOAD_PROGRAMS);

    assert_eq!(application.run("socket 2 3 6"), errno(Errno::EPERM));
    assert_eq!(application.run("send no 203.0.113.7:443"), errno(Errno::ECONNREFUSED));
    assert_eq!(application.connect("203.0.113.7:80"), "ok 203.0.113.7:80");
    let (_, peer) = lab.listener_v4.accept().unwrap();
    let expected = Some("203.0.113.7:80".parse().unwrap());
    assert_eq!(
        successor
            .take_original_destination(WORKLOAD, peer, port(&lab.listener_v4))
            .map(|taken| taken.destination),
        expected
    );

    datapath::cleanup(&lab.pins).unwrap();
    assert!(!lab.pins.exists(), "nothing is left");
    assert_direct(&mut application);
}

#[test]
fn links_on_other_maps_are_replaced() {
    let Some(lab) = Lab::new("links_on_other_maps_are_replaced") else { return };
    lab.enrol();
    let mut application = lab.inside();
    // The maps' pins are lost, so a new agent makes new maps, and the links' programs cannot be kept.
    fs::remove_dir_all(lab.maps()).unwrap();
    let successor = Capture::load(&lab.pins).unwrap();
    successor.attach(lab.cgroup.path(), &lab.policy()).unwrap();
    assert_eq!(fs::read_dir(lab.links()).unwrap().count(), bpf::WORKLOAD_PROGRAMS);

    assert_eq!(application.connect("203.0.113.7:80"), "ok 203.0.113.7:80");
    let (_, peer) = lab.listener_v4.accept().unwrap();
    let expected = Some("203.0.113.7:80".parse().unwrap());
    assert_eq!(
        successor
            .take_original_destination(WORKLOAD, peer, port(&lab.listener_v4))
            .map(|taken| taken.destination),
        expected
    );
    let counters = successor.counters().unwrap();
    assert!(
        counters.contains(&("captured", 1)) && counters.contains(&("already_captured", 0)),
        "{counters:?}"
    );
}

#[test]
fn the_program_of_another_version_is_replaced_behind_its_link() {
    let Some(lab) = Lab::new("the_program_of_another_version_is_replaced_behind_its_link") else { return };
    lab.enrol();
    let mut application = lab.inside();
    // Another version of the object: a program of its own on the same maps.
    let path = lab.links().join(format!("{}-egret_connect4-connect4", lab.cgroup.inode().unwrap()));
    let link = foreign::open_pin(&path).unwrap();
    let (id, ours) = foreign::link_ids(&link).unwrap();
    let storage = foreign::open_pin(&lab.maps().join("egret_policy")).unwrap();
    let other = foreign::allowing(foreign::CONNECT4, Some(&storage)).unwrap();
    foreign::replace(&link, &other).unwrap();
    let captured = lab.count("captured");
    let refused = application.connect("203.0.113.7:80");
    assert_eq!(lab.count("captured"), captured, "the other version does not capture: {refused}");

    let successor = Capture::load(&lab.pins).unwrap();
    let missing = successor.attach(lab.cgroup.path(), &lab.policy()).unwrap();
    assert_eq!(missing, 0, "nothing was detached");
    let (after, program) = foreign::link_ids(&foreign::open_pin(&path).unwrap()).unwrap();
    assert_eq!(after, id, "the link stays");
    assert_ne!(program, ours, "behind it is the successor's program");
    // With the policy that was there: the value is the same map's.
    assert_eq!(application.connect("203.0.113.7:80"), "ok 203.0.113.7:80");
    assert_eq!(lab.take(true).1, Some("203.0.113.7:80".parse().unwrap()));
}

#[test]
fn what_an_older_agent_had_on_a_hook_that_is_not_ours_any_more_goes() {
    let Some(lab) = Lab::new("what_an_older_agent_had_on_a_hook_that_is_not_ours_any_more_goes") else {
        return;
    };
    let (cgroup, inode) = (lab.cgroup.path(), lab.cgroup.inode().unwrap());
    lab.enrol();
    let ours = bpf::attached(cgroup).unwrap();
    let pin = lab.links().join(format!("{inode}-egret_sock_ops-sock_ops"));
    let storage = foreign::open_pin(&lab.maps().join("egret_policy")).unwrap();
    let leave = || {
        let program = foreign::allowing(foreign::SOCK_OPS, Some(&storage)).unwrap();
        foreign::attach_pinned(cgroup, foreign::SOCK_OPS, &program, &pin).unwrap();
        assert_eq!(bpf::attached(cgroup).unwrap().len(), ours.len() + 1, "the control: it is attached");
    };
    leave();
    let successor = Capture::load(&lab.pins).unwrap();
    assert_eq!(successor.attach(cgroup, &lab.policy()).unwrap(), 0);
    // The programs that tell events are the successor's.
    let hooks = |attached: &BTreeSet<(u32, u32)>| attached.iter().map(|(hook, _)| *hook).collect::<Vec<_>>();
    assert_eq!(hooks(&bpf::attached(cgroup).unwrap()), hooks(&ours));
    assert!(!pin.exists(), "its pin has gone");
    assert_eq!(lab.inside().connect("203.0.113.7:80"), "ok 203.0.113.7:80");

    // Also where nobody has taken over before the workload is released.
    leave();
    successor.detach(inode).unwrap();
    assert!(bpf::attached(cgroup).unwrap().is_empty());
    assert_eq!(fs::read_dir(lab.links()).unwrap().count(), 0, "no pin is left");
}

#[test]
fn a_failed_attach_leaves_nothing_behind() {
    let Some(lab) = Lab::new("a_failed_attach_leaves_nothing_behind") else { return };
    let inode = lab.cgroup.inode().unwrap();
    // The last link cannot be pinned here.
    let obstacle = lab.links().join(format!("{inode}-egret_connect6-connect6"));
    fs::create_dir(&obstacle).unwrap();
    let error = lab.capture.attach(lab.cgroup.path(), &lab.policy()).unwrap_err().to_string();
    assert!(error.contains("egret_connect6"), "{error}");
    assert_eq!(fs::read_dir(lab.links()).unwrap().count(), 1, "only the obstacle");
    assert_direct(&mut lab.inside());

    fs::remove_dir(&obstacle).unwrap();
    lab.enrol();
    assert_eq!(lab.inside().connect("203.0.113.7:80"), "ok 203.0.113.7:80");
}

#[test]
fn a_pinned_map_of_another_shape_is_refused() {
    let Some(lab) = Lab::new("a_pinned_map_of_another_shape_is_refused") else { return };
    let maps = lab.maps();
    fs::remove_file(maps.join("egret_bypass")).unwrap();
    fs::rename(maps.join("egret_original"), maps.join("egret_bypass")).unwrap();
    let error = Capture::load(&lab.pins).unwrap_err().to_string();
    assert!(error.contains("egret_bypass") && error.contains("another shape"), "{error}");
}

#[test]
fn writing_a_policy_where_nothing_is_attached_is_an_error() {
    let Some(lab) = Lab::new("writing_a_policy_where_nothing_is_attached_is_an_error") else { return };
    let error = lab.capture.set_policy(lab.cgroup.path(), &lab.policy()).unwrap_err().to_string();
    assert!(error.contains("nothing is attached"), "{error}");
}

#[test]
fn original_destinations_that_nobody_takes_are_swept() {
    let Some(lab) = Lab::new("original_destinations_that_nobody_takes_are_swept") else { return };
    lab.enrol();
    let mut application = lab.inside();
    for number in 1..=3 {
        assert_eq!(
            application.connect(&format!("203.0.113.{number}:80")),
            format!("ok 203.0.113.{number}:80")
        );
    }
    assert_eq!(lab.capture.sweep().unwrap(), 0, "they are young");
    assert_eq!(lab.take(true).1, Some("203.0.113.1:80".parse().unwrap()));
    assert_eq!(lab.capture.sweep_older_than(Duration::ZERO).unwrap(), 2);
    assert_eq!(lab.take(true).1, None);
}
