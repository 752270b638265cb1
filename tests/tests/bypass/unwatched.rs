//! `egret verify-bypass` aimed at a server that is no witness: judged by what can be seen from inside, and it says so.

use anyhow::Result;

use crate::rig::{Rig, Subject};

#[test]
fn without_a_witness_the_socket_table_decides() -> Result<()> {
    let Some(rig) = Rig::start("without_a_witness_the_socket_table_decides")? else { return Ok(()) };
    let target = format!("{}:80", rig.world.external.address());
    let enrolled = rig.run(Subject::Enrolled, &["--target", &target])?;
    assert_eq!(enrolled.report["watched"], false, "{}", enrolled.report);
    assert!(enrolled.report["unwatched_because"].as_str().is_some_and(|why| why.contains("no witness")));
    assert_eq!(enrolled.verdict("tcp connect"), "held");
    assert!(
        enrolled.vectors["tcp connect"].1.contains("at the listener"),
        "{:?}",
        enrolled.vectors["tcp connect"]
    );

    let unenrolled = rig.run(Subject::Unenrolled, &["--target", &target])?;
    assert_eq!(unenrolled.verdict("tcp connect"), "escaped");
    // Nobody can say where it went, so nobody does.
    assert_eq!(unenrolled.verdict("udp sendto"), "unproven");
    assert!(unenrolled.failed);
    Ok(())
}

#[test]
fn people_get_a_table() -> Result<()> {
    let Some(rig) = Rig::start("people_get_a_table")? else { return Ok(()) };
    let target = format!("{}:80", rig.world.external.address());
    let mut command = rig.world.egret.exec("default/sleep", true);
    command.arg(rig.world.egret.binary()).args(["verify-bypass", "--target", &target]);
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "nothing leaves a namespace with loopback only:\n{text}");
    let line = text.lines().find(|line| line.trim_start().starts_with("tcp connect "));
    assert!(line.is_some_and(|line| line.contains("captured") && line.contains("held")), "{text}");
    assert!(text.contains("what can be seen from inside only"), "{text}");
    assert!(text.contains(" 0 escaped"), "{text}");
    Ok(())
}
