//! A workload in the host's network namespace can use names: what its C library asks the configured resolver passes, and what
//! it asks another does not.

use std::{fs, fs::File, net::UdpSocket, path::Path, process::Output, thread};

use anyhow::{Context as _, Result};
use egret_tests::scenario::World;
use nix::sched::{CloneFlags, setns};

use crate::Rig;

const A: [u8; 2] = [0, 1];

/// A resolver in the external service's namespace that knows all names by the same address. Ends with the test.
fn resolver(world: &World) -> Result<()> {
    let address = world.external.address();
    let namespace = File::open(Path::new("/run/netns").join(world.external.namespace().name()))?;
    let socket = thread::spawn(move || -> Result<UdpSocket> {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(UdpSocket::bind((address, 53))?)
    })
    .join()
    .expect("no panic")?;
    thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut question) {
            if let Some(answer) = answer(&question[..length], address.octets()) {
                let _ = socket.send_to(&answer, peer);
            }
        }
    });
    Ok(())
}

/// The answer of RFC 1035 §4: the question again, and one address if it was for one of IPv4.
fn answer(question: &[u8], address: [u8; 4]) -> Option<Vec<u8>> {
    let mut at = 12;
    while *question.get(at)? != 0 {
        at += usize::from(question[at]) + 1;
    }
    let end = at + 5;
    let wants_v4 = question.get(at + 1..at + 3)? == A;
    let mut answer = question.get(..2)?.to_vec();
    // An answer, recursion available; one question, and how many addresses.
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(wants_v4), 0, 0, 0, 0]);
    answer.extend(question.get(12..end)?);
    if wants_v4 {
        // The name of the question, A, IN, for a minute.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address);
    }
    Some(answer)
}

#[test]
fn a_workload_uses_names_by_the_configured_resolver() -> Result<()> {
    let Some(rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &rig.world;
    resolver(world)?;
    let resolv_conf = rig.directory.path().join("resolv.conf");
    fs::write(
        &resolv_conf,
        format!("nameserver {}\noptions attempts:1 timeout:2\n", world.external.address()),
    )?;
    let run = |command: &str| -> Result<Output> {
        let script = format!("mount --bind {} /etc/resolv.conf && {command}", resolv_conf.display());
        let mut exec = world.egret.exec("default/sleep", false);
        Ok(exec.args(["unshare", "--mount", "sh", "-c", &script]).output()?)
    };
    let refused = run("getent ahostsv4 test.com")?;
    assert!(!refused.status.success(), "nobody has configured this resolver: {refused:?}");

    let mesh = world.config.path().join("mesh.yaml");
    let text = fs::read_to_string(&mesh).context("MeshConfig")?;
    let text =
        text.replace("spec:\n", &format!("spec:\n  dns:\n    resolvers: [{}]\n", world.external.address()));
    world.egret.reconfigure(|| world.config.write("mesh.yaml", &text))?;
    let found = run("getent ahostsv4 test.com")?;
    let said = String::from_utf8_lossy(&found.stdout);
    assert!(said.contains(&world.external.address().to_string()), "{found:?}");
    let got = run(
        "curl --silent --max-time 20 --output /dev/null --write-out '%{http_code}' http://test.com/status/200",
    )?;
    assert_eq!(String::from_utf8_lossy(&got.stdout), "200", "{got:?}");
    Ok(())
}
