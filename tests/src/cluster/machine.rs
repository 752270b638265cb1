//! A machine of the cluster: a set of namespaces and cgroups with a process 1 of its own. Killing that process ends it all.
//!
//! What is known about a machine is in its directory below the cluster's state, so that any process can find it: `pid`
//! (process 1 and when it started), `cgroups`, `enter` (a script that runs a command on the machine) and `services`.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cluster::{cgroups, plan::Plan},
    process, wait,
};

/// What a machine gets to start, or to end after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where programs are found; the same on every machine, whoever starts it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A machine, running or not.
#[derive(Clone, Debug)]
pub struct Machine {
    name: String,
    directory: PathBuf,
    logs: PathBuf,
}

/// Process 1 of a machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Init {
    pid: i32,
    started: u64,
}

impl Machine {
    /// The machine `name`, as it is recorded or will be.
    pub(super) fn of(plan: &Plan, name: &str) -> Self {
        let state = plan.state();
        Self { name: name.to_owned(), directory: state.join("machines").join(name), logs: state.join("logs") }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process 1, while it runs.
    pub fn process_one(&self) -> Option<u32> {
        self.init().map(|init| init.pid.cast_unsigned())
    }

    /// Starts it: cgroups, namespaces, and mounts as on a machine of its own. `files` is for what has to be on a disk.
    pub(super) fn boot(&self, plan: &Plan, files: &Path) -> Result<()> {
        fs::create_dir_all(self.directory.join("services"))?;
        fs::create_dir_all(&self.logs)?;
        for directory in ["lib", "log"] {
            fs::create_dir_all(files.join(directory))?;
        }
        let hierarchies = cgroups::hierarchies()?;
        let alone = cgroups::v2_alone(&hierarchies);
        let groups = cgroups::make(&hierarchies, &plan.cgroup(&self.name))?;
        let shown = groups.iter().map(|path| quoted(&path.to_string_lossy())).collect::<Vec<_>>().join(" ");
        let listed: Vec<String> = groups.iter().map(|path| path.to_string_lossy().into_owned()).collect();
        fs::write(self.directory.join("cgroups"), listed.join("\n"))?;

        let mut mounts = String::new();
        if alone {
            mounts.push_str("mount -t cgroup2 cgroup2 /sys/fs/cgroup\n");
        } else {
            mounts.push_str("mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup\n");
            for hierarchy in &hierarchies {
                let place = quoted(&hierarchy.mount.to_string_lossy());
                let what = match &hierarchy.options {
                    Some(options) => format!("-t cgroup -o {options} cgroup"),
                    None => "-t cgroup2 cgroup2".to_owned(),
                };
                mounts.extend(["mkdir -p ", &place, "\nmount ", &what, " ", &place, "\n"]);
            }
        }
        let init = INIT
            .replace("@NAME@", &self.name)
            .replace("@STATE@", &quoted(&plan.state().to_string_lossy()))
            .replace("@FILES@", &quoted(&files.to_string_lossy()))
            .replace("@PID@", &quoted(&self.directory.join("pid").to_string_lossy()))
            .replace("@MOUNTS@", &mounts);
        fs::write(self.directory.join("init"), init)?;
        let leaf = if alone { "/init" } else { "" };
        let boot = BOOT
            .replace("@GROUPS@", &shown)
            .replace("@LEAF@", leaf)
            .replace("@INIT@", &quoted(&self.directory.join("init").to_string_lossy()));
        fs::write(self.directory.join("boot"), boot)?;

        let log = self.log_file("boot")?;
        let started = Command::new("setsid")
            .args(["--fork", "/bin/sh"])
            .arg(self.directory.join("boot"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()
            .context("cannot run setsid")?;
        if !started.success() {
            bail!("cannot start machine {}: setsid failed ({started})", self.name);
        }
        let init = wait::until(&format!("machine {} to start", self.name), PATIENCE, || Ok(self.init()))
            .map_err(|error| self.explained(&error, "boot"))?;

        let enter = ENTER
            .replace("@NAME@", &self.name)
            .replace("@GROUPS@", &shown)
            .replace("@LEAF@", leaf)
            .replace("@PID@", &init.pid.to_string());
        let path = self.directory.join("enter");
        fs::write(&path, enter)?;
        Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?)
    }

    /// A command that will run on the machine, in its namespaces and cgroups.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.directory.join("enter"));
        command.arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a command on the machine to its end; an error has its standard error.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let enter = self.directory.join("enter");
        let arguments = [&[program], arguments].concat();
        process::run(&enter.to_string_lossy(), &arguments)
    }

    /// Says how a service is started; [`Self::start`] does it.
    pub(super) fn define(&self, service: &str, program: &Path, arguments: &[String]) -> Result<()> {
        let words: Vec<String> = std::iter::once(program.to_string_lossy().into_owned())
            .chain(arguments.iter().cloned())
            .map(|word| quoted(&word))
            .collect();
        let script = format!("exec env -i PATH={PATH} HOME=/root {}\n", words.join(" \\\n  "));
        fs::write(self.service(service), script)
            .with_context(|| format!("cannot write {}", self.service(service).display()))
    }

    /// Starts a service. It does not end with us, but with the machine. What it says goes into its log.
    pub fn start(&self, service: &str) -> Result<()> {
        if self.init().is_none() {
            bail!("{service} cannot be started: machine {} does not run", self.name);
        }
        if !self.processes_of(service)?.is_empty() {
            bail!("{service} runs already on machine {}", self.name);
        }
        let log = self.log_file(service)?;
        let mut command = self.command("/bin/sh");
        command.args(["-c", "setsid /bin/sh \"$0\" &"]).arg(self.service(service));
        let status = command.stdout(log.try_clone()?).stderr(log).status()?;
        if !status.success() {
            bail!("cannot start {service} on machine {}: {status}", self.name);
        }
        wait::until(&format!("{service} to start"), PATIENCE, || Ok(self.is_running(service)?.then_some(())))
            .map_err(|error| self.explained(&error, service))
    }

    /// Ends a service with SIGKILL, as a crash would. What it started goes on.
    pub fn stop(&self, service: &str) -> Result<()> {
        let processes = self.processes_of(service)?;
        if processes.is_empty() {
            bail!("{service} does not run on machine {}", self.name);
        }
        for pid in &processes {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        wait::until(&format!("{service} to end"), PATIENCE, || {
            Ok(self.processes_of(service)?.is_empty().then_some(()))
        })
    }

    /// Kills the whole machine, as if its power were cut.
    pub fn kill(&self) -> Result<()> {
        if let Some(init) = self.init() {
            let _ = kill(Pid::from_raw(init.pid), Signal::SIGKILL);
        }
        let groups = fs::read_to_string(self.directory.join("cgroups")).unwrap_or_default();
        if !wait::settled(PATIENCE, || self.init().is_none()) {
            bail!("machine {} does not end after SIGKILL", self.name);
        }
        groups.lines().try_for_each(|group| cgroups::remove(Path::new(group)))
    }

    /// The last lines of a service's log.
    pub fn log(&self, service: &str) -> String {
        let path = self.log_path(service);
        let text =
            fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        format!("{} ends with:\n{}", path.display(), lines[lines.len().saturating_sub(15)..].join("\n"))
    }

    /// An error that has to do with a service, with what the service says about it.
    pub(super) fn explained(&self, error: &anyhow::Error, service: &str) -> anyhow::Error {
        anyhow!("{error:#}\n{}", self.log(service))
    }

    /// Whether a service runs.
    pub fn is_running(&self, service: &str) -> Result<bool> {
        Ok(!self.processes_of(service)?.is_empty())
    }

    fn service(&self, service: &str) -> PathBuf {
        self.directory.join("services").join(service)
    }

    fn log_path(&self, service: &str) -> PathBuf {
        self.logs.join(format!("{}-{service}.log", self.name))
    }

    fn log_file(&self, service: &str) -> Result<File> {
        let path = self.log_path(service);
        File::options()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))
    }

    /// Processes directly on the machine (not in containers) whose program is `service`.
    fn processes_of(&self, service: &str) -> Result<Vec<Pid>> {
        let Some(init) = self.init() else { return Ok(Vec::new()) };
        let namespace = fs::read_link(format!("/proc/{}/ns/pid", init.pid))?;
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // Processes end while we look.
            let same = fs::read_link(entry.path().join("ns/pid")).is_ok_and(|link| link == namespace);
            let program = || fs::read_link(entry.path().join("exe")).ok();
            if same && program().is_some_and(|path| path.file_name().is_some_and(|name| name == service)) {
                found.push(Pid::from_raw(pid));
            }
        }
        Ok(found)
    }

    /// Process 1, if it is the one that was recorded.
    fn init(&self) -> Option<Init> {
        let text = fs::read_to_string(self.directory.join("pid")).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let init = Init { pid: pid.parse().ok()?, started: started.parse().ok()? };
        (started_at(init.pid).ok()? == init.started).then_some(init)
    }
}

/// When a process started, in the kernel's ticks; none for a zombie.
fn started_at(pid: i32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, which comes second, may contain anything.
    let mut fields = text.rsplit(") ").next().unwrap_or_default().split(' ');
    let state = fields.next().unwrap_or_default();
    let started = fields.nth(18).and_then(|field| field.parse().ok());
    started.filter(|_| !matches!(state, "Z" | "X")).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// A word for the shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Into the machine's cgroups, then into namespaces: the cgroup namespace first, so that its roots are exactly those.
const BOOT: &str = r#"set -eu
if [ "${1-}" = inside ]; then
    for group in @GROUPS@; do
        mkdir -p "$group@LEAF@"
        echo $$ > "$group@LEAF@/cgroup.procs"
    done
    exec unshare --mount --net --pid --uts --ipc --fork --kill-child --propagation private /bin/sh @INIT@
fi
for group in @GROUPS@; do
    echo $$ > "$group/cgroup.procs"
done
exec unshare --cgroup /bin/sh "$0" inside
"#;

/// Process 1: it makes the mounts, says that it is there, and reaps what is orphaned.
const INIT: &str = r"set -eu
# This /proc is still that of the first namespace: it tells our process id there, and when we started.
read -r pid _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ _ start _ < /proc/self/stat
hostname @NAME@
mount -t proc proc /proc
mount -t sysfs sysfs /sys
@MOUNTS@
mount -t bpf bpf /sys/fs/bpf
mkdir -p @FILES@/state
mount --bind @STATE@ @FILES@/state
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p @STATE@ /run/lock
mount --move @FILES@/state @STATE@
mount --bind @FILES@/lib /var/lib
mount --bind @FILES@/log /var/log
mount --make-rshared /
ip link set lo up
echo $pid $start > @PID@.new
mv @PID@.new @PID@
while :; do sleep 86400 & wait; done
";

/// Runs a command on the machine.
const ENTER: &str = r#"#!/bin/sh
# Runs a command on machine @NAME@: enter COMMAND [ARGUMENT...]
set -eu
for group in @GROUPS@; do
    echo $$ > "$group@LEAF@/cgroup.procs"
done
exec nsenter --target @PID@ --mount --uts --ipc --net --pid --cgroup -- "$@"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        let word = "it's \"a\" $HOME\\n";
        let output = Command::new("/bin/sh").args(["-c", &format!("printf %s {}", quoted(word))]).output();
        assert_eq!(String::from_utf8(output.unwrap().stdout).unwrap(), word);
    }

    #[test]
    fn a_process_is_told_from_its_successor() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(started_at(own).unwrap() > started_at(1).unwrap());
        assert!(started_at(i32::MAX).is_err());
    }
}
