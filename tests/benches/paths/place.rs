//! Where processes of the benchmark run: in a network namespace, in a cgroup, in both.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use egret_tests::{
    cgroup::{self, Cgroup},
    netns::Namespace,
    process::Process,
    wait,
};

/// What a server gets until it listens.
const START: Duration = Duration::from_secs(20);

/// A command in a cgroup, and in a namespace unless it is this machine's.
pub(crate) fn command(namespace: Option<&Namespace>, cgroup: &Cgroup, program: &Path) -> Command {
    // "0" is the writing process itself. A shell, because nothing may run before it is there.
    const ENTER: [&str; 3] = ["sh", "-c", "echo 0 >\"$0\" && exec \"$@\""];
    let mut command;
    if let Some(namespace) = namespace {
        // `ip netns exec` would hide the cgroups, too.
        command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", namespace.name())).arg("--").args(ENTER);
    } else {
        command = Command::new(ENTER[0]);
        command.args(&ENTER[1..]);
    }
    command.arg(cgroup.path().join("cgroup.procs")).arg(program);
    command
}

/// Begins the names of our cgroups.
const CGROUPS: &str = "egret-bench-";

/// A new cgroup. There is one benchmark at a time, so its name is free.
pub(crate) fn cgroup() -> Result<Cgroup> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("{CGROUPS}{}", NEXT.fetch_add(1, Relaxed));
    Cgroup::at(cgroup::mount_point()?.join(name))
}

/// Removes those of a benchmark that was killed; what was in them died with it.
pub(crate) fn clear_cgroups() -> Result<()> {
    for entry in fs::read_dir(cgroup::mount_point()?)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(CGROUPS)) {
            for inner in fs::read_dir(&path)?.flatten().filter(|inner| inner.path().is_dir()) {
                fs::remove_dir(inner.path())?;
            }
            fs::remove_dir(&path).with_context(|| format!("an earlier benchmark left {}", path.display()))?;
        }
    }
    Ok(())
}

/// Starts a proxy whose standard output goes into a file.
pub(crate) fn start(name: &str, command: &mut Command, output: &Path) -> Result<Process> {
    let file = File::create(output).with_context(|| format!("cannot write {}", output.display()))?;
    Process::spawn(name, command.stdout(file))
}

/// Waits until something listens on a port, in the namespace of this process.
pub(crate) fn listens(process: &mut Process, name: &str, port: u16) -> Result<()> {
    let path = PathBuf::from(format!("/proc/{}/net/tcp", process.id()));
    let address = format!(":{port:04X}");
    let waited = wait::until(&format!("{name} to listen on port {port}"), START, || {
        if let Some(status) = process.try_status()? {
            bail!("it ended with {status}");
        }
        // Local address, remote address, state; 0A is LISTEN.
        let sockets = fs::read_to_string(&path).unwrap_or_default();
        let mut sockets = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        Ok(sockets
            .any(|socket| socket.len() > 3 && socket[1].ends_with(&address) && socket[3] == "0A")
            .then_some(()))
    });
    waited.with_context(|| format!("{name} wrote:\n{}", process.tail()))
}
