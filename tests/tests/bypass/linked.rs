//! A workload in a network namespace of its own with a link to the node, as a pod has it, and unenrolled neighbours in the
//! same namespace who hand in sockets. The node forwards between its link and the witness's: without Egret everything gets
//! out.

use std::{
    fs::{self, File},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use egret_tests::{cgroup::Cgroup, netns::Namespace, process, process::Process, wait};
use nix::sched::{CloneFlags, setns};

use crate::rig::{Battery, LOCKS, Rig, START, add_v6, early_socket, outcomes};

/// What a container runtime leaves to root unless it is told otherwise.
const CONTAINER: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,\
                         +net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";

/// What the workload may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Privileges {
    /// Everything.
    Root,
    /// What containers have.
    Container,
}

/// The namespace, its neighbours, and the cgroup in which the battery runs. Ended in the order of the fields.
pub(crate) struct Linked {
    _helper: Process,
    cgroup: Cgroup,
    socket: PathBuf,
    namespace: Namespace,
}

impl Linked {
    /// Beside what the rig has; enrolled by nobody.
    pub(crate) fn start(rig: &Rig) -> Result<Self> {
        let namespace = Namespace::create("egl", Path::new(LOCKS))?;
        add_v6(&namespace)?;
        join(&namespace, rig.world.external.namespace())?;
        inside(&namespace, || Ok(fs::write(crate::rig::PING, "0 0")?))?;
        let socket = rig.directory().join("neighbour");
        let mut command = enter(&namespace, rig.world.egret.binary());
        command.args(["verify-bypass", "--hand-out"]).arg(&socket).stdout(Stdio::null());
        let helper = Process::spawn("the neighbour", &mut command)?;
        wait::until("the neighbour", START, || Ok(socket.exists().then_some(())))?;
        Ok(Self { _helper: helper, cgroup: Cgroup::new()?, socket, namespace })
    }

    /// The network devices of the namespace, and the cgroups in the cgroup.
    pub(crate) fn belongings(&self) -> Result<Vec<String>> {
        let devices = process::run("ip", &["-n", self.namespace.name(), "-o", "link", "show"])?;
        let names = devices.lines().filter_map(|line| line.split(": ").nth(1)).map(str::to_owned);
        let entries = fs::read_dir(self.cgroup.path())?.collect::<Result<Vec<_>, _>>()?;
        let cgroups = entries.into_iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        Ok(names.chain(cgroups.map(|entry| entry.file_name().to_string_lossy().into_owned())).collect())
    }

    /// A command in the cgroup and in the namespace, up to and including the dashes.
    fn command(&self, privileges: Privileges) -> Command {
        let mut command = enter(&self.namespace, Path::new("setpriv"));
        if privileges == Privileges::Container {
            command.args(["--bounding-set", CONTAINER]);
        }
        // "0" is the writing process itself. A shell, because nothing may run before it is there.
        command
            .args(["sh", "-c", "echo 0 >\"$0\" && exec \"$@\""])
            .arg(self.cgroup.path().join("cgroup.procs"));
        command
    }

    /// Enrols the cgroup, and whoever will be in it: the one process there shows which network namespace is meant.
    pub(crate) fn enrol(&self, rig: &Rig) -> Result<Process> {
        let mut command = self.command(Privileges::Container);
        let resident = Process::spawn("the workload", command.args(["sleep", "300"]))?;
        wait::until("the workload in its cgroup", START, || {
            let processes = fs::read_to_string(self.cgroup.path().join("cgroup.procs"))?;
            Ok((!processes.is_empty()).then_some(()))
        })?;
        let mut command = rig.world.egret.verb("enroll");
        let output = command.arg("--cgroup").arg(self.cgroup.path()).arg("default/sleep").output()?;
        ensure!(output.status.success(), "not enrolled: {}", String::from_utf8_lossy(&output.stderr));
        Ok(resident)
    }

    /// Runs the battery.
    pub(crate) fn battery(&self, rig: &Rig, privileges: Privileges) -> Result<Battery> {
        let early = inside(&self.namespace, early_socket)?;
        let mut command = self.command(privileges);
        command.arg(rig.world.egret.binary()).args(["verify-bypass", "-o", "json"]);
        let battery = outcomes(command.args(rig.aims(&self.socket, early.as_raw_fd())))?;
        drop(early);
        Ok(battery)
    }
}

/// A command in a namespace. (`ip netns exec` would hide the cgroups, too.)
fn enter(namespace: &Namespace, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", at(namespace).display())).arg("--").arg(program);
    command
}

fn at(namespace: &Namespace) -> PathBuf {
    Path::new("/run/netns").join(namespace.name())
}

/// Runs `f` in a namespace.
fn inside<T: Send>(namespace: &Namespace, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let at = File::open(at(namespace))?;
    let run = || {
        setns(at, CloneFlags::CLONE_NEWNET)?;
        f()
    };
    thread::scope(|scope| scope.spawn(run).join()).map_err(|_| anyhow!("panicked inside"))?
}

/// Routes between two namespaces by way of the node, which forwards from their links only.
fn join(one: &Namespace, other: &Namespace) -> Result<()> {
    for namespace in [one, other] {
        let (name, link) = (namespace.name(), namespace.host_link());
        process::run(
            "ip",
            &["-n", name, "route", "add", "default", "via", &namespace.host_address().to_string()],
        )?;
        process::run(
            "ip",
            &["-n", name, "-6", "route", "add", "default", "via", &crate::rig::v6(namespace, 1)],
        )?;
        for switch in [format!("ipv4/conf/{link}/forwarding"), format!("ipv6/conf/{link}/force_forwarding")] {
            let path = Path::new("/proc/sys/net").join(switch);
            fs::write(&path, "1").with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}
