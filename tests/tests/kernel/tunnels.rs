//! Tunnel devices: what the kernel sends for a workload by a socket of its own, in the node's network.

use std::{path::Path, process::Command};

use egret::datapath::WorkloadPolicy;
use egret_tests::cgroup::Cgroup;
use nix::errno::Errno;

use crate::{
    lab::{Lab, errno, ip},
    outside::{OUTSIDE, Outside},
};

/// Runs `ip` in a cgroup: whether it worked.
fn ip_in(cgroup: &Path, arguments: &str) -> bool {
    let script = format!("echo 0 > {}/cgroup.procs && exec ip {arguments}", cgroup.display());
    Command::new("sh").args(["-c", &script]).status().expect("a shell").success()
}

#[test]
fn a_tunnel_in_the_nodes_network_is_not_opened_for_a_workload_that_is_not_there() {
    let test = "a_tunnel_in_the_nodes_network_is_not_opened_for_a_workload_that_is_not_there";
    let Some(lab) = Lab::new(test) else { return };
    let own = Outside::new();
    let policy = WorkloadPolicy { own_network: true, ..lab.policy() };
    lab.capture.attach(lab.cgroup.path(), &policy).unwrap();
    let elsewhere = Cgroup::new().expect("cgroup");
    for (count, remote) in (1..).zip(OUTSIDE) {
        // It sends in this thread's namespace, wherever it is.
        let (name, remote) = (format!("over{count}"), remote.trim_matches(['[', ']']));
        ip(&format!("link add {name} type vxlan id 7 remote {remote} dstport {}", 4790 + count));
        ip(&format!("link set {name} netns {}", own.path()));
        let up = |cgroup: &Cgroup| {
            let (cgroup, up) = (cgroup.path().to_owned(), format!("link set {name} up"));
            own.run(move || ip_in(&cgroup, &up))
        };
        assert!(!up(&lab.cgroup), "{remote}");
        assert_eq!(lab.count("refused_node_socket"), count, "{remote}");
        assert!(up(&elsewhere), "{remote}: of somebody who is not enrolled");
        let down = format!("link set {name} down");
        own.run(move || ip(&down));
        // The policy alone makes the difference.
        lab.capture.set_policy(lab.cgroup.path(), &lab.policy()).unwrap();
        assert!(up(&lab.cgroup), "{remote}: of a workload that is in the node's network itself");
        lab.capture.set_policy(lab.cgroup.path(), &policy).unwrap();
    }
}

#[test]
fn only_what_is_bound_in_the_nodes_network_is_refused() {
    let Some(lab) = Lab::new("only_what_is_bound_in_the_nodes_network_is_refused") else { return };
    let policy = WorkloadPolicy { own_network: true, ..lab.policy() };
    lab.capture.attach(lab.cgroup.path(), &policy).unwrap();
    let (mut there, mut own) = (lab.inside(), lab.inside());
    assert_eq!(own.run("own-network"), "ok done");
    for address in ["0.0.0.0:0", "[::]:0"] {
        assert_eq!(there.run(&format!("server {address}")), errno(Errno::EPERM), "{address}");
        assert!(there.run(&format!("listener {address}")).starts_with("ok"), "{address}: TCP is captured");
        assert!(own.run(&format!("server {address}")).starts_with("ok"), "{address}: a server of its own");
    }
    assert_eq!(lab.count("refused_node_socket"), 2);
}
