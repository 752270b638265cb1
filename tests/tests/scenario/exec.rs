//! `egret exec` is as good as the command itself.

use std::process::Output;

use anyhow::Result;
use egret_tests::scenario::World;

use crate::Rig;

fn shell(world: &World, own_namespace: bool, script: &str) -> Result<Output> {
    let mut command = world.egret.exec("default/sleep", own_namespace);
    Ok(command.args(["sh", "-c", script]).output()?)
}

#[test]
fn output_and_exit_status_are_the_commands() -> Result<()> {
    let Some(rig) = Rig::start()? else { return Ok(()) };
    for own_namespace in [false, true] {
        let output = shell(&rig.world, own_namespace, "echo out; echo err >&2; exit 7")?;
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        assert_eq!(output.stdout, b"out\n");
        assert!(String::from_utf8_lossy(&output.stderr).contains("err\n"), "{output:?}");
        assert_eq!(shell(&rig.world, own_namespace, "exit 0")?.status.code(), Some(0));
    }
    let mut missing = rig.world.egret.exec("default/sleep", false);
    let output = missing.arg("/no/such/command").output()?;
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("/no/such/command"), "{said}");
    Ok(())
}

#[test]
fn an_own_namespace_has_only_loopback() -> Result<()> {
    let Some(rig) = Rig::start()? else { return Ok(()) };
    let output = shell(&rig.world, true, "ls /proc/self/net/dev_mcast >/dev/null; cat /proc/self/net/dev")?;
    let devices = String::from_utf8_lossy(&output.stdout);
    let names = devices.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim);
    // Kernels add tunnel devices to every namespace when their modules are loaded; all of them are down.
    let real =
        names.filter(|name| name.starts_with("eth") || name.starts_with("en") || name.starts_with("veth"));
    assert_eq!(real.collect::<Vec<_>>(), Vec::<&str>::new(), "{devices}");
    assert!(devices.contains("lo:"), "{devices}");
    Ok(())
}
