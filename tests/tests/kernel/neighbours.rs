//! Others on the machine: programs on our hooks, and containers with a view of cgroups of their own.

use std::{fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use egret::datapath::probe;
use egret_tests::{cgroup::Cgroup, foreign, process::Process, wait};

use crate::{
    lab::{Lab, assert_idle, listen},
    outside::Outside,
};

/// Attaching fails with the reason, and leaves nothing behind.
fn assert_refused(lab: &Lab, cgroup: &Cgroup) {
    let error = lab.capture.attach(cgroup.path(), &lab.policy()).expect_err("refused").to_string();
    assert!(error.contains("egret_connect4") && error.contains("exclusively"), "{error}");
    assert_eq!(fs::read_dir(lab.pins.join("links")).expect("links").count(), 0, "no pin is left");
}

#[test]
fn a_program_that_holds_a_hook_exclusively_makes_attaching_fail() {
    let Some(lab) = Lab::new("a_program_that_holds_a_hook_exclusively_makes_attaching_fail") else { return };
    let child = lab.cgroup.child("child").unwrap();
    let program = foreign::allowing(foreign::CONNECT4, None).unwrap();
    foreign::attach_exclusively(lab.cgroup.path(), foreign::CONNECT4, &program).unwrap();
    assert_refused(&lab, &lab.cgroup);
    assert_refused(&lab, &child);
    // What `egret doctor` says of it.
    let found = probe::neighbours(lab.cgroup.path()).unwrap();
    assert_eq!(found, [probe::Neighbour { hook: "connect4", programs: 1, exclusive: true }]);
    assert_eq!(probe::neighbours(child.path()).unwrap(), []);
}

#[test]
fn a_program_that_redirects_after_ours_lets_nothing_out() {
    let Some(lab) = Lab::new("a_program_that_redirects_after_ours_lets_nothing_out") else { return };
    let outside = Outside::new();
    let server = outside.run(|| listen("198.51.100.2:0"));
    let SocketAddr::V4(address) = server.local_addr().unwrap() else { panic!("it is IPv4") };
    lab.enrol();
    // As a workload with CAP_BPF and CAP_NET_ADMIN could: on its own cgroup, where it is asked after us.
    let program = foreign::redirecting(address).unwrap();
    foreign::attach_beside(lab.cgroup.path(), foreign::CONNECT4, &program).unwrap();
    let mut application = lab.inside();
    let started = application.run("keep start 203.0.113.7:80");
    assert!(started.starts_with("ok errno"), "{started}");
    assert_ne!(lab.count("dropped_captured"), 0, "its SYN was dropped");
    assert_idle(&server);
    assert_idle(&lab.listener_v4);

    // Without us it arrives: the program does what it is meant to.
    lab.capture.detach(lab.cgroup.inode().unwrap()).unwrap();
    application.run("start 203.0.113.7:80");
    server.accept().expect("redirected");
}

/// A process whose view of cgroups begins with its own, and which has mounted that view.
fn container(lab: &Lab, mount_point: &Path) -> Process {
    let procs = lab.cgroup.path().join("cgroup.procs");
    // "0" is the writing process itself.
    let script = "echo 0 >\"$0\" && exec unshare --cgroup --mount sh -c \
                  'mount -t cgroup2 none \"$0\" && echo mounted >&2 && exec sleep 60' \"$1\"";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(procs).arg(mount_point);
    let mut process = Process::spawn("the container", &mut command).expect("started");
    process.wait_for_line("mounted", Duration::from_secs(10)).expect("mounted");
    process
}

#[test]
fn a_private_cgroup_namespace_shows_the_same_cgroup() {
    let Some(lab) = Lab::new("a_private_cgroup_namespace_shows_the_same_cgroup") else { return };
    let directory = tempfile::tempdir().unwrap();
    let container = container(&lab, directory.path());
    let own = format!("/proc/{}/cgroup", container.id());
    let theirs = Path::new("/proc").join(container.id().to_string()).join("root");
    let theirs = theirs.join(directory.path().strip_prefix("/").unwrap());
    // From here the process is where it is; in its own view, at the root, and so is the mount.
    assert!(fs::read_to_string(own).unwrap().contains("egret-tests-"));
    assert!(theirs.join("cgroup.procs").exists() && theirs.join("cgroup.type").exists());

    lab.capture.attach(&theirs, &lab.policy()).unwrap();
    let inode = lab.cgroup.inode().unwrap().to_string();
    for link in fs::read_dir(lab.pins.join("links")).unwrap() {
        let name = link.unwrap().file_name();
        assert!(name.to_string_lossy().starts_with(&inode), "{name:?} is not of cgroup {inode}");
    }
    // It is the cgroup that we know: whoever is in it is captured, also when it is enrolled again by its other name.
    assert_eq!(lab.inside().connect("203.0.113.7:80"), "ok 203.0.113.7:80");
    assert_eq!(lab.take(true).1, Some("203.0.113.7:80".parse().unwrap()));
    assert_eq!(lab.capture.attach(lab.cgroup.path(), &lab.policy()).unwrap(), 0, "all was attached");
    drop(container);
    wait::until("the container's end", Duration::from_secs(5), || Ok((!theirs.exists()).then_some(())))
        .unwrap();
}
