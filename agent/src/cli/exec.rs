//! `egret exec`: runs a command as a workload, and ends with its status.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsFd as _, unix::process::ExitStatusExt as _},
    process::{ExitCode, ExitStatus},
};

use anyhow::Context as _;
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};

use super::{args::Exec, output};
use crate::{
    admin::client,
    node::{agent::Enrolment, workload::Workload},
};

/// Statuses of env(1) and the shells: found but not to be run, not found.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Enrols, runs, releases.
pub(super) fn run(exec: Exec, runtime: &Runtime) -> anyhow::Result<ExitCode> {
    runtime.block_on(async {
        let socket = exec.instance.run_dir().socket("agent");
        let enrolment = Enrolment {
            namespace: exec.workload.namespace,
            service_account: exec.workload.service_account,
            own_network: exec.netns,
            cgroup: None,
        };
        let workload: Workload = client::post(&socket, "/workloads", &enrolment).await?;
        let status = match spawn(&exec.command, &workload) {
            Ok(child) => wait(child).await.context("the command cannot be waited for").map(exit_code),
            Err(e) => {
                let code = if e.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN };
                output::error(&anyhow::Error::new(e).context(exec.command[0].to_string_lossy().into_owned()));
                Ok(ExitCode::from(code))
            }
        };
        // Children that the command left behind keep the workload; the agent releases it when the last one ends.
        if let Err(e) = client::delete::<()>(&socket, &format!("/workloads/{}", workload.id)).await {
            tracing::debug!("release: {e}");
        }
        status
    })
}

/// Starts the command inside the workload's cgroup and namespace: it is captured before its first instruction.
fn spawn(command: &[std::ffi::OsString], workload: &Workload) -> io::Result<Child> {
    let procs = OpenOptions::new().write(true).open(workload.cgroup.join("cgroup.procs"))?;
    let namespace = workload.namespace.as_ref().map(File::open).transpose()?;
    let mut process = Command::new(&command[0]);
    process.args(&command[1..]);
    // SAFETY: between fork and exec only system calls on descriptors opened before: write(2) and setns(2).
    unsafe {
        process.pre_exec(move || {
            // "0" is the writing process itself (cgroup-v2, "Processes").
            nix::unistd::write(procs.as_fd(), b"0")?;
            if let Some(namespace) = &namespace {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
            }
            Ok(())
        });
    }
    process.spawn()
}

/// Waits for the command. A terminal sends it SIGINT and SIGQUIT itself; the rest is passed on.
async fn wait(mut child: Child) -> io::Result<ExitStatus> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        let passed_on = tokio::select! {
            status = child.wait() => return status,
            _ = interrupt.recv() => None,
            _ = quit.recv() => None,
            _ = terminate.recv() => Some(Signal::SIGTERM),
            _ = hangup.recv() => Some(Signal::SIGHUP),
        };
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        if let (Some(signal), Some(pid)) = (passed_on, pid) {
            kill(Pid::from_raw(pid), signal)?;
        }
    }
}

/// The command's status; 128 + signal where a signal ended it, as shells say it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
}
