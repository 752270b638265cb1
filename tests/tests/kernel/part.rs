//! Where a process is in the whole tree of cgroups, and strict start where only a part of the tree is to be seen: as in a container, or on
//! a node that is one itself.

use std::{
    env, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use egret::datapath::{Class, Depths};
use egret_tests::{
    cgroup::{self, Cgroup},
    privileges,
};
use nix::mount::{MsFlags, mount, umount};

use crate::{
    guard::{assert_direct, assert_refused, server},
    lab::{Application, Lab},
    outside::{OUTSIDE, Outside},
};

/// Names the part to the test that runs in it.
const PART: &str = "EGRET_TESTS_PART";
const TEST: &str = "a_part_of_the_tree_is_guarded_from_within";

fn inode(path: &Path) -> u64 {
    fs::metadata(path).expect("a directory").ino()
}

#[test]
fn a_process_knows_the_cgroups_that_it_is_in() {
    let Some(lab) = Lab::new("a_process_knows_the_cgroups_that_it_is_in") else { return };
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = cgroups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
    let root = cgroup::mount_point().unwrap();
    let mut expected: Vec<_> = root.join(own).ancestors().map(Path::to_owned).collect();
    expected.retain(|path| path.starts_with(&root));
    expected.reverse();
    let expected: Vec<_> = expected.iter().map(|path| inode(path)).collect();
    assert_eq!(lab.capture.own_cgroups().unwrap(), expected);
}

#[test]
fn a_part_of_the_tree_is_guarded_from_within() {
    if let Some(part) = env::var_os(PART) {
        return within(&PathBuf::from(part));
    }
    if !privileges::kernel_or_skip(TEST) {
        return;
    }
    let above = Cgroup::new().unwrap();
    let part = above.child("node").unwrap();
    let agent = part.child("agent").unwrap();
    let ran = Command::new("sh")
        .args(["-c", r#"echo $$ > "$1/cgroup.procs"; shift; exec "$@""#, "sh"])
        .arg(agent.path())
        .arg(env::current_exe().unwrap())
        .args([&format!("part::{TEST}"), "--exact", "--nocapture"])
        .env(PART, part.path())
        .status()
        .unwrap();
    assert!(ran.success(), "{ran}");
}

fn within(cgroups: &Path) {
    let lab = Lab::new(TEST).expect("asked before");
    let own = lab.capture.own_cgroups().expect("it is ours");
    assert_eq!(own[own.len() - 2..], [inode(cgroups), inode(&cgroups.join("agent"))]);

    let part = tempfile::tempdir().expect("it is ours");
    mount(Some(cgroups), part.path(), None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("it is ours");
    let outside = Outside::new();
    let (server, address) = server(&outside, OUTSIDE[0]);
    let all = Cgroup::at(part.path().join("kubepods")).expect("it is ours");
    let pod = all.child("pod1").expect("it is ours");
    let (class, container) =
        (all.child("burstable").expect("it is ours"), pod.child("container").expect("it is ours"));
    let other = class.child("pod2").expect("it is ours");
    lab.capture.guard(all.path(), Depths::TWO).expect("it is ours");
    let mut applications = [&container, &other].map(|cgroup| Application::start(Some(cgroup)));
    for application in &mut applications {
        assert_refused(application, &address);
    }
    for (cgroup, application) in [&pod, &other].into_iter().zip(&mut applications) {
        lab.capture.classify(cgroup.inode().expect("it is ours"), Class::NotOurs).expect("it is ours");
        assert_direct(application, &address, &server);
    }
    drop((applications, container, other, class, pod, all));
    umount(part.path()).expect("it is ours");
}

#[test]
fn whoever_has_to_ask_others_first_passes_a_guard_of_an_earlier_agent() {
    let Some(lab) = Lab::new("whoever_has_to_ask_others_first_passes_a_guard_of_an_earlier_agent") else {
        return;
    };
    let outside = Outside::new();
    let (server, address) = server(&outside, OUTSIDE[0]);
    let pod = lab.cgroup.child("pod").unwrap();
    lab.capture.guard(lab.cgroup.path(), Depths::CHILDREN).unwrap();
    let mut application = Application::start(Some(&pod));
    assert_refused(&mut application, &address);
    egret::datapath::admit(&lab.pins, pod.inode().unwrap()).unwrap();
    assert_direct(&mut application, &address, &server);
    egret::datapath::admit(&lab.pins.join("none"), pod.inode().unwrap()).expect("no guard, nothing to pass");
}
