//! Strict start: what may leave from below a guarded parent before it is known whose it is.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use egret::datapath::{self, Capture, Class, Depths};
use egret_tests::{bpf, cgroup::Cgroup};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
};

use crate::{
    lab::{Application, Lab, assert_idle, errno, listen},
    outside::{INSIDE, OUTSIDE, Outside, receive},
};

/// A server outside, and its address.
pub(crate) fn server(outside: &Outside, address: &str) -> (TcpListener, String) {
    let at = format!("{address}:0");
    let listener = outside.run(move || listen(&at));
    let address = listener.local_addr().expect("address").to_string();
    (listener, address)
}

/// What an application that nobody has classified sees.
pub(crate) fn assert_refused(application: &mut Application, address: &str) {
    assert_eq!(application.connect(address), errno(Errno::ECONNREFUSED), "{address}");
}

/// What an application sees that is left alone.
pub(crate) fn assert_direct(application: &mut Application, address: &str, server: &TcpListener) {
    assert_eq!(application.connect(address), format!("ok {address}"));
    server.accept().expect("went direct");
}

fn classify(lab: &Lab, cgroup: &Cgroup, class: Class) {
    lab.capture.classify(cgroup.inode().expect("inode"), class).expect("classified");
}

#[test]
fn a_child_that_nobody_has_classified_cannot_get_out() {
    let Some(lab) = Lab::new("a_child_that_nobody_has_classified_cannot_get_out") else { return };
    let outside = Outside::new();
    let [(v4, at_v4), (v6, at_v6)] = OUTSIDE.map(|address| server(&outside, address));
    let mapped = format!("[::ffff:198.51.100.2]:{}", v4.local_addr().unwrap().port());
    let udp = outside.socket(&format!("{}:9", OUTSIDE[0]));
    let (child, sibling) = (lab.cgroup.child("pod").unwrap(), Cgroup::new().unwrap());
    let mut bystander = Application::start(Some(&sibling));
    assert_eq!(lab.capture.guard(lab.cgroup.path(), Depths::CHILDREN).unwrap(), 5);

    let mut application = Application::start(Some(&child));
    for address in [&at_v4, &at_v6, &mapped] {
        assert_refused(&mut application, address);
    }
    assert_eq!(application.run("nonblocking 198.51.100.2:9"), errno(Errno::ECONNREFUSED));
    assert_eq!(application.run("fastopen x 198.51.100.2:9"), errno(Errno::ECONNREFUSED));
    assert_eq!(lab.count("guard_refused"), 5);
    for address in OUTSIDE {
        let address = format!("{address}:9");
        assert_eq!(application.run(&format!("send no {address}")), errno(Errno::ECONNREFUSED));
        // Address sorting in the C library connects, and sends nothing.
        assert_eq!(application.run(&format!("datagram {address}")), format!("ok {address}"));
        assert_eq!(application.run(&format!("send-connected no {address}")), errno(Errno::EPERM));
    }
    assert_eq!((lab.count("guard_refused_datagram"), lab.count("guard_dropped")), (2, 2));
    assert_eq!(application.run("keep socket 2 3 6"), "ok made");
    assert_eq!(application.run("syn 198.51.100.2:9"), errno(Errno::EPERM));
    assert_eq!(application.run("keep socket 2 3 1"), "ok made");
    assert_eq!(application.run("echo 198.51.100.2:0"), errno(Errno::EPERM));
    assert_eq!(lab.count("guard_dropped"), 4);

    // Whoever is not below the parent notices nothing.
    assert_direct(&mut bystander, &at_v4, &v4);
    assert_eq!(bystander.run("send bystander 198.51.100.2:9"), "ok done");
    assert_eq!(receive(&udp).0, "bystander", "and nothing had come before");

    // Nor does the child, once it is known.
    classify(&lab, &child, Class::NotOurs);
    assert_direct(&mut application, &at_v4, &v4);
    assert_direct(&mut application, &at_v6, &v6);
    assert_direct(&mut application, &mapped, &v4);
    assert_eq!(application.run("send known 198.51.100.2:9"), "ok done");
    assert_eq!(receive(&udp).0, "known");
    assert_eq!(application.run("send-connected known 198.51.100.2:9"), "ok done");
    assert_eq!(receive(&udp).0, "known");
    lab.capture.forget(child.inode().unwrap()).unwrap();
    assert_refused(&mut application, &at_v4);
    lab.capture.forget(child.inode().unwrap()).expect("forgetting twice is fine");
    for listener in [v4, v6] {
        assert_idle(&listener);
    }
}

#[test]
fn what_everybody_may_reach_passes_the_guard() {
    let Some(lab) = Lab::new("what_everybody_may_reach_passes_the_guard") else { return };
    let outside = Outside::new();
    let [(bypassed, at_bypassed), (v6, at_v6)] = OUTSIDE.map(|address| server(&outside, address));
    let resolver = outside.socket(&format!("{}:53", OUTSIDE[1]));
    let child = lab.cgroup.child("pod").unwrap();
    lab.capture.guard(lab.cgroup.path(), Depths::CHILDREN).unwrap();
    let mut application = Application::start(Some(&child));
    assert_refused(&mut application, &at_bypassed);
    lab.capture.set_bypass(&["198.51.100.0/24".parse().unwrap()]).unwrap();
    lab.capture.set_resolvers(&[format!("{}:53", OUTSIDE[1]).parse().unwrap()]).unwrap();

    assert_direct(&mut application, &at_bypassed, &bypassed);
    assert_refused(&mut application, &at_v6);
    for command in ["send", "send-connected"] {
        assert_eq!(application.run(&format!("{command} name {}:53", OUTSIDE[1])), "ok done");
        assert_eq!(receive(&resolver).0, "name");
    }
    let local = listen("127.0.0.1:0");
    let at_local = local.local_addr().unwrap().to_string();
    assert_direct(&mut application, &at_local, &local);
    assert_eq!((lab.count("guard_refused"), lab.counters_like("guard_d")), (2, vec![]));
    assert_idle(&v6);
}

#[test]
fn callers_are_answered_when_the_child_is_known() {
    let Some(lab) = Lab::new("callers_are_answered_when_the_child_is_known") else { return };
    let outside = Outside::new();
    let child = lab.cgroup.child("pod").unwrap();
    lab.capture.guard(lab.cgroup.path(), Depths::CHILDREN).unwrap();
    let mut application = Application::start(Some(&child));
    let at = application.run(&format!("keep listener {}:0", INSIDE[0]));
    let at: SocketAddr = at.strip_prefix("ok ").unwrap().parse().unwrap();
    let caller = outside.start(move || TcpStream::connect_timeout(&at, Duration::from_secs(20)).is_ok());
    lab.wait_for_count("guard_dropped", 1);
    assert!(!caller.is_finished());
    // The caller's kernel asks again.
    classify(&lab, &child, Class::NotOurs);
    assert_eq!(application.run("serve 10"), "ok done");
    assert!(caller.join().unwrap());
}

#[test]
fn a_socket_is_judged_by_its_own_cgroup_when_it_sends() {
    let Some(lab) = Lab::new("a_socket_is_judged_by_its_own_cgroup_when_it_sends") else { return };
    let outside = Outside::new();
    let (server, address) = server(&outside, OUTSIDE[0]);
    let (unknown, known) = (lab.cgroup.child("unknown").unwrap(), lab.cgroup.child("known").unwrap());
    lab.capture.guard(lab.cgroup.path(), Depths::CHILDREN).unwrap();
    classify(&lab, &known, Class::NotOurs);
    let mut application = Application::start(Some(&unknown));
    assert_eq!(application.run(&format!("keep socket 2 {} 6", 1 | nix::libc::SOCK_NONBLOCK)), "ok made");
    // Whoever calls connect() is known, the socket is not.
    known.add(application.id()).unwrap();
    assert_eq!(application.run(&format!("dial {address}")), errno(Errno::EINPROGRESS));
    lab.wait_for_count("guard_dropped", 1);
    assert_eq!(lab.count("guard_refused"), 0);
    assert_idle(&server);
    assert_direct(&mut application, &address, &server);
}

#[test]
fn depths_say_where_cgroups_are_classified() {
    let Some(lab) = Lab::new("depths_say_where_cgroups_are_classified") else { return };
    let outside = Outside::new();
    let (server, address) = server(&outside, OUTSIDE[0]);
    // As below `kubepods`: a guaranteed pod with a container, and two burstable ones.
    let guaranteed = lab.cgroup.child("pod1").unwrap();
    let container = guaranteed.child("container").unwrap();
    let burstable = lab.cgroup.child("burstable").unwrap();
    let (known, unknown) = (burstable.child("pod2").unwrap(), burstable.child("pod3").unwrap());
    let nested = known.child("container").unwrap();
    lab.capture.guard(lab.cgroup.path(), Depths::TWO).unwrap();
    let mut applications =
        [&container, &nested, &known, &unknown].map(|cgroup| Application::start(Some(cgroup)));
    for application in &mut applications {
        assert_refused(application, &address);
    }
    classify(&lab, &guaranteed, Class::NotOurs);
    classify(&lab, &known, Class::NotOurs);
    let [in_container, in_nested, in_known, in_unknown] = &mut applications;
    for application in [in_container, in_nested, in_known] {
        assert_direct(application, &address, &server);
    }
    assert_refused(in_unknown, &address);

    // With one depth, the second does not count.
    lab.capture.guard(lab.cgroup.path(), Depths::CHILDREN).unwrap();
    let [in_container, in_nested, ..] = &mut applications;
    assert_direct(in_container, &address, &server);
    assert_refused(in_nested, &address);

    // Whoever is above all depths is refused, since nobody can classify it.
    let mut above = Application::start(Some(&lab.cgroup));
    assert_refused(&mut above, &address);
    classify(&lab, &lab.cgroup, Class::NotOurs);
    assert_refused(&mut above, &address);
    drop((above, applications));
}

#[test]
fn an_enrolled_child_is_captured_as_ever() {
    let Some(lab) = Lab::new("an_enrolled_child_is_captured_as_ever") else { return };
    let outside = Outside::new();
    let (server, address) = server(&outside, OUTSIDE[0]);
    let child = lab.cgroup.child("pod").unwrap();
    let inode = child.inode().unwrap();
    lab.capture.guard(lab.cgroup.path(), Depths::CHILDREN).unwrap();
    let mut application = Application::start(Some(&child));
    assert_refused(&mut application, &address);
    assert_eq!(lab.capture.classes().unwrap().get(&inode), None);

    lab.capture.attach(child.path(), &lab.policy()).unwrap();
    assert_eq!(lab.capture.classes().unwrap().get(&inode), Some(&Class::Enrolled));
    for (destination, v4) in [(address.as_str(), true), ("[2001:db8:7::7]:443", false)] {
        assert_eq!(application.connect(destination), format!("ok {destination}"));
        assert_eq!(lab.take(v4).1, Some(destination.parse().unwrap()));
    }
    // Its own programs say why not.
    let no_route = datapath::WorkloadPolicy { no_route_v4: true, ..lab.policy() };
    lab.capture.set_policy(child.path(), &no_route).unwrap();
    assert_eq!(application.connect(&address), errno(Errno::ENETUNREACH));
    assert_eq!(lab.count("guard_refused"), 1);
    assert_idle(&server);

    // Not ours any more, and not yet somebody else's.
    lab.capture.detach(inode).unwrap();
    assert_eq!(lab.capture.classes().unwrap().get(&inode), None);
    assert_refused(&mut application, &address);
    classify(&lab, &child, Class::NotOurs);
    assert_direct(&mut application, &address, &server);
}

#[test]
fn a_guarded_parent_may_be_enrolled_as_well() {
    let Some(lab) = Lab::new("a_guarded_parent_may_be_enrolled_as_well") else { return };
    let child = lab.cgroup.child("pod").unwrap();
    lab.capture.guard(lab.cgroup.path(), Depths::CHILDREN).unwrap();
    lab.enrol();
    let mut application = Application::start(Some(&child));
    // The guard wins, until the child is known; then the parent's enrolment counts.
    assert_refused(&mut application, "203.0.113.7:80");
    classify(&lab, &child, Class::NotOurs);
    assert_eq!(application.connect("203.0.113.7:80"), "ok 203.0.113.7:80");
    assert_eq!(lab.take(true).1, Some("203.0.113.7:80".parse().unwrap()));
    // Each goes by itself.
    lab.capture.detach(lab.cgroup.inode().unwrap()).unwrap();
    lab.capture.forget(child.inode().unwrap()).unwrap();
    assert_refused(&mut application, "203.0.113.7:80");
    assert_eq!(lab.capture.guarded().unwrap(), [lab.cgroup.inode().unwrap()]);
    drop(application);
}

#[test]
fn a_guard_outlives_the_agent_and_goes_when_it_is_told_to() {
    let Some(lab) = Lab::new("a_guard_outlives_the_agent_and_goes_when_it_is_told_to") else { return };
    let outside = Outside::new();
    let (server, address) = server(&outside, OUTSIDE[0]);
    let (older, newer) = (lab.cgroup.child("older").unwrap(), lab.cgroup.child("newer").unwrap());
    let parent = lab.cgroup.inode().unwrap();
    classify(&lab, &older, Class::NotOurs);
    lab.capture.guard(lab.cgroup.path(), Depths::CHILDREN).unwrap();
    let [mut in_older, mut in_newer] = [&older, &newer].map(|cgroup| Application::start(Some(cgroup)));
    let Lab { capture, cgroup, listener_v4, listener_v6, pins, mount } = lab;
    drop((capture, listener_v4, listener_v6));

    // The agent is gone: what was known stays so, what is new is refused.
    assert_direct(&mut in_older, &address, &server);
    assert_refused(&mut in_newer, &address);
    let links = || fs::read_dir(pins.join(bpf::LAYOUT).join("links")).unwrap().count();
    assert_eq!(links(), 5);

    let successor = Capture::load(&pins).unwrap();
    assert_eq!(successor.guarded().unwrap(), [parent]);
    assert_eq!(
        successor.classes().unwrap().into_iter().collect::<Vec<_>>(),
        [(older.inode().unwrap(), Class::NotOurs)]
    );
    assert_eq!(successor.guard(cgroup.path(), Depths::CHILDREN).unwrap(), 0, "the links stay");
    assert_refused(&mut in_newer, &address);
    assert_direct(&mut in_older, &address, &server);

    successor.unguard(parent).unwrap();
    assert_eq!((links(), successor.guarded().unwrap()), (0, vec![]));
    assert_direct(&mut in_newer, &address, &server);
    successor.unguard(parent).expect("taking it away twice is fine");

    // `cleanup` takes away what an agent that does not come back has left.
    successor.forget(older.inode().unwrap()).unwrap();
    successor.guard(cgroup.path(), Depths::CHILDREN).unwrap();
    assert_refused(&mut in_older, &address);
    drop(successor);
    datapath::cleanup(&pins).unwrap();
    assert_direct(&mut in_older, &address, &server);
    assert_direct(&mut in_newer, &address, &server);
    drop((in_older, in_newer, older, newer, cgroup, mount));
}

#[test]
fn a_guard_that_would_hit_the_wrong_ones_is_refused() {
    let Some(lab) = Lab::new("a_guard_that_would_hit_the_wrong_ones_is_refused") else { return };
    let guard = |path: &Path| lab.capture.guard(path, Depths::CHILDREN).unwrap_err().to_string();
    let application = lab.inside();
    let error = guard(lab.cgroup.path());
    assert!(error.contains("1 processes are directly in it"), "{error}");
    drop(application);

    // How deep a part of the tree is cannot be seen by who is not in it.
    let child = lab.cgroup.child("pod").unwrap();
    let part = tempfile::tempdir().unwrap();
    mount(Some(lab.cgroup.path()), part.path(), None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    let error = guard(&part.path().join("pod"));
    assert!(error.contains("only a part of the machine's cgroups, and not the one"), "{error}");
    nix::mount::umount(part.path()).unwrap();
    drop(child);
    assert!(lab.capture.guarded().unwrap().is_empty());
}
