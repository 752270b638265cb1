//! `onAgentDown`: refused by default; out directly by explicit choice, and only while nobody listens.

use std::io::{Read as _, Write as _};

use nix::errno::Errno;

use egret::datapath::WorkloadPolicy;

use crate::{
    lab::{Lab, assert_idle, errno, listen, port},
    outside::{OUTSIDE, Outside},
};

/// Servers outside, for both families.
fn servers(outside: &Outside) -> Vec<(std::net::TcpListener, String)> {
    OUTSIDE
        .iter()
        .map(|address| {
            let address = format!("{address}:0");
            let server = outside.run(move || listen(&address));
            let at = server.local_addr().expect("an address").to_string();
            (server, at)
        })
        .collect()
}

#[test]
fn refused_without_a_listener_unless_chosen_otherwise() {
    let Some(lab) = Lab::new("refused_without_a_listener_unless_chosen_otherwise") else { return };
    let outside = Outside::new();
    let servers = servers(&outside);
    let mut application = lab.inside();
    // Ports at which nobody listens: the agent was killed.
    let dead = [listen("127.0.0.1:0"), listen("[::1]:0")].map(|listener| port(&listener));
    let policy = WorkloadPolicy { listener_v4: dead[0], listener_v6: dead[1], ..lab.policy() };
    lab.capture.attach(lab.cgroup.path(), &policy).unwrap();
    for (server, at) in &servers {
        assert_eq!(application.connect(at), errno(Errno::ECONNREFUSED), "{at}");
        assert_idle(server);
    }
    assert_eq!(lab.count("bypassed_agent_down"), 0);

    let chosen = WorkloadPolicy { bypass_when_down: true, ..policy };
    lab.capture.set_policy(lab.cgroup.path(), &chosen).unwrap();
    let mut dialled: Vec<_> = servers.iter().map(|(server, at)| (server, at.clone())).collect();
    let (v4_server, v4) = &servers[0];
    dialled.push((v4_server, format!("[::ffff:{}", v4.replace(':', "]:"))));
    for (number, (server, at)) in (1..).zip(&dialled) {
        assert_eq!(application.connect(at), format!("ok {at}"));
        server.accept().expect("went directly");
        assert_eq!(lab.count("bypassed_agent_down"), number);
        assert!(lab.count("passed_agent_down") >= number, "the backstop knows");
    }
    // TCP only.
    assert_eq!(application.run("send no 198.51.100.2:443"), errno(Errno::ECONNREFUSED));
    assert_eq!(application.run("send-connected no 198.51.100.2:443"), errno(Errno::EPERM));
    assert_eq!(lab.count("dropped_tcp_open"), 0);

    lab.capture.set_policy(lab.cgroup.path(), &policy).unwrap();
    assert_eq!(application.connect(v4), errno(Errno::ECONNREFUSED), "as soon as it is not chosen any more");
    assert_idle(v4_server);
}

#[test]
fn captured_as_ever_while_somebody_listens() {
    let Some(lab) = Lab::new("captured_as_ever_while_somebody_listens") else { return };
    let outside = Outside::new();
    let servers = servers(&outside);
    let policy = WorkloadPolicy { bypass_when_down: true, ..lab.policy() };
    lab.capture.attach(lab.cgroup.path(), &policy).unwrap();
    let mut application = lab.inside();
    for ((server, at), v4) in servers.iter().zip([true, false]) {
        assert_eq!(application.connect(at), format!("ok {at}"));
        assert_eq!(lab.take(v4).1, Some(at.parse().unwrap()));
        assert_idle(server);
    }
    assert_eq!(lab.counters_like("bypassed_agent"), []);

    let (server, at) = &servers[0];
    let nobody = WorkloadPolicy { listener_v4: port(&listen("127.0.0.1:0")), ..policy };
    lab.capture.set_policy(lab.cgroup.path(), &nobody).unwrap();
    assert_eq!(application.run(&format!("keep connect {at}")), format!("ok {at}"));
    let (mut stream, _) = server.accept().expect("went directly");
    // It goes on when the agent is back.
    lab.capture.set_policy(lab.cgroup.path(), &policy).unwrap();
    let echo = std::thread::spawn(move || {
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes)?;
        stream.write_all(&bytes)
    });
    assert_eq!(application.run("talk hello"), "ok hello");
    echo.join().unwrap().unwrap();
    assert!(lab.count("passed_agent_down") > 0);
    assert_eq!(application.connect(at), format!("ok {at}"));
    assert_eq!(lab.take(true).1, Some(at.parse().unwrap()));
}
