//! The process guard.

use std::{process::Command, time::Duration};

use anyhow::Result;
use egret_tests::{process::Process, wait};
use nix::{errno::Errno, sys::signal::kill, unistd::Pid};

const PATIENCE: Duration = Duration::from_secs(10);

fn shell(script: &str) -> Result<Process> {
    Process::spawn("the shell", Command::new("sh").args(["-c", script]))
}

#[test]
fn waits_for_a_line() -> Result<()> {
    let mut process = shell("echo starting >&2; echo is ready now >&2; exec sleep 60")?;
    assert_eq!(process.wait_for_line("ready", PATIENCE)?, "is ready now");
    Ok(())
}

#[test]
fn tells_what_was_said_instead() -> Result<()> {
    let mut process = shell("echo no permission >&2; exit 3")?;
    let error = format!("{:#}", process.wait_for_line("ready", PATIENCE).unwrap_err());
    assert!(error.contains("no permission") && error.contains("exit status: 3"), "{error}");
    Ok(())
}

#[test]
fn is_ended_on_drop() -> Result<()> {
    let process = shell("exec sleep 60")?;
    let pid = Pid::from_raw(process.id().cast_signed());
    assert_eq!(kill(pid, None), Ok(()));
    drop(process);
    assert_eq!(kill(pid, None), Err(Errno::ESRCH));
    Ok(())
}

#[test]
fn gets_the_chance_to_clean_up() -> Result<()> {
    let mut process =
        shell("trap 'echo cleaned >&2; exit 0' TERM; echo ready >&2; while :; do sleep 0.05; done")?;
    process.wait_for_line("ready", PATIENCE)?;
    assert!(process.terminate()?.success());
    assert_eq!(process.stderr(), ["ready", "cleaned"]);
    Ok(())
}

#[test]
fn waiting_in_vain_ends() {
    let error = wait::until("rain", Duration::from_millis(30), || Ok(None::<()>)).unwrap_err();
    assert!(error.to_string().contains("rain"), "{error}");
    assert!(!wait::settled(Duration::from_millis(30), || false));
}
