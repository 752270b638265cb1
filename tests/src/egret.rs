//! The product under test, through its command line only: `egret up` as a guard, and the other verbs against it.

use std::{
    env, fs,
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    curl::{self, Answer},
    json_log::JsonLog,
    process::Process,
    wait,
};

/// What `egret up` gets until everything serves.
const START: Duration = Duration::from_mins(1);
/// What it gets to end: every role may drain its connections.
const END: Duration = Duration::from_secs(40);
/// What a change of a file gets until it is in force.
const RELOAD: Duration = Duration::from_secs(15);

/// The processes of one `egret up`, by the names of their pid files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `egret up` itself.
    Supervisor,
    /// `egret ca`.
    Ca,
    /// `egret gateway`.
    Gateway,
    /// `egret agent`.
    Agent,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Supervisor, Self::Ca, Self::Gateway, Self::Agent];

    /// As in `<run-dir>/<name>.pid`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Supervisor => "supervisor",
            Self::Ca => "ca",
            Self::Gateway => "gateway",
            Self::Agent => "agent",
        }
    }
}

/// A running `egret up`. Dropping it ends it the way Ctrl-C does.
pub struct Egret {
    binary: PathBuf,
    run_dir: PathBuf,
    tunnels: SocketAddr,
    metrics: SocketAddr,
    /// Arguments of `egret up` beside those that every test needs.
    arguments: Vec<String>,
    process: Process,
}

impl Egret {
    /// Starts `binary` on the files in `config`, and waits until it serves. Its gateway is on this address of the machine, its
    /// tunnel port any free one.
    pub fn up(binary: &Path, config: &Path, run_dir: &Path, gateway: Ipv4Addr) -> Result<Self> {
        Self::up_with(binary, config, run_dir, gateway, &[])
    }

    /// The same with more arguments.
    pub fn up_with(
        binary: &Path,
        config: &Path,
        run_dir: &Path,
        gateway: Ipv4Addr,
        arguments: &[&str],
    ) -> Result<Self> {
        let tunnels = SocketAddr::from((gateway, free_port(gateway)?));
        let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port(Ipv4Addr::LOCALHOST)?));
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        let process = Self::spawn(binary, config, run_dir, (tunnels, metrics), &arguments)?;
        let (binary, run_dir) = (binary.to_owned(), run_dir.to_owned());
        let mut egret = Self { binary, run_dir, tunnels, metrics, arguments, process };
        egret.process.wait_for_line(" ready", START)?;
        Ok(egret)
    }

    /// Starts it again after its supervisor was killed: with the same run directory, whose workloads it takes over.
    pub fn up_again(&mut self, config: &Path) -> Result<()> {
        let ports = (self.tunnels, self.metrics);
        self.process = Self::spawn(&self.binary, config, &self.run_dir, ports, &self.arguments)?;
        self.process.wait_for_line(" ready", START).map(drop)
    }

    fn spawn(
        binary: &Path,
        config: &Path,
        run_dir: &Path,
        (tunnels, metrics): (SocketAddr, SocketAddr),
        arguments: &[String],
    ) -> Result<Process> {
        let mut command = Command::new(binary);
        command.arg("up").arg("-f").arg(config).arg("--run-dir").arg(run_dir);
        command.args(["--hbone-address", &tunnels.to_string()]);
        command.args(["--metrics-address", &metrics.to_string()]);
        command.args(arguments);
        command.stdout(Stdio::null());
        Process::spawn("egret up", &mut command)
    }

    /// The binary.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Its run directory.
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// The port of the gateway's tunnels.
    pub fn tunnel_port(&self) -> u16 {
        self.tunnels.port()
    }

    /// Where its metrics are.
    pub fn metrics(&self) -> SocketAddr {
        self.metrics
    }

    /// The supervisor.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The gateway's access log.
    pub fn access_log(&self) -> JsonLog {
        JsonLog::new(self.run_dir.join("gateway-access.log"))
    }

    /// A verb that takes `--run-dir`.
    pub fn verb(&self, name: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg(name).arg("--run-dir").arg(&self.run_dir);
        command
    }

    /// `egret exec WORKLOAD -- …`, up to and including the dashes.
    pub fn exec(&self, workload: &str, own_namespace: bool) -> Command {
        let mut command = self.verb("exec");
        if own_namespace {
            command.arg("--netns");
        }
        command.args([workload, "--"]);
        command
    }

    /// `egret exec WORKLOAD -- curl …`.
    pub fn curl(&self, workload: &str, own_namespace: bool, arguments: &[&str]) -> Result<Answer> {
        let mut command = self.exec(workload, own_namespace);
        command.arg("curl").args(curl::OPTIONS).args(arguments);
        curl::run(&mut command)
    }

    /// `egret status -o json`.
    pub fn status(&self) -> Result<Value> {
        self.json("status", &[])
    }

    /// `egret flows -o json`.
    pub fn flows(&self) -> Result<Value> {
        self.json("flows", &[])
    }

    /// `egret flow ID`, for people.
    pub fn flow_story(&self, id: &str) -> Result<String> {
        output(self.verb("flow").arg(id))
    }

    /// `egret flows`, for people.
    pub fn flow_table(&self) -> Result<String> {
        output(&mut self.verb("flows"))
    }

    /// What a verb prints with `-o json` and these arguments.
    pub fn json(&self, verb: &str, arguments: &[&str]) -> Result<Value> {
        let text = output(self.verb(verb).args(["-o", "json"]).args(arguments))?;
        serde_json::from_str(&text).with_context(|| format!("egret {verb} -o json gave no JSON: {text}"))
    }

    /// The version of the configuration in force.
    pub fn config_version(&self) -> Result<u64> {
        let status = self.status()?;
        status["config"]["version"]
            .as_u64()
            .with_context(|| format!("no config.version in the status: {status}"))
    }

    /// Makes a change to the configuration's files and waits until it is in force.
    pub fn reconfigure(&self, change: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.config_version()?;
        change()?;
        wait::until("the changed configuration to be in force", RELOAD, || {
            Ok((self.config_version()? > before).then_some(()))
        })
    }

    /// The problems of the last load.
    pub fn config_problems(&self) -> Result<Vec<Value>> {
        let status = self.status()?;
        let problems = status["config"]["problems"].as_array();
        problems.cloned().with_context(|| format!("no config.problems in the status: {status}"))
    }

    /// The process id of a part, as its pid file has it.
    pub fn pid(&self, part: Part) -> Result<Pid> {
        let path = self.run_dir.join(part.name()).with_extension("pid");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let pid = text.trim().parse().with_context(|| format!("{}: {text:?}", path.display()))?;
        Ok(Pid::from_raw(pid))
    }

    /// Kills a part, without warning.
    pub fn kill(&self, part: Part) -> Result<Pid> {
        let pid = self.pid(part)?;
        kill(pid, Signal::SIGKILL).with_context(|| format!("cannot kill {part:?} ({pid})"))?;
        Ok(pid)
    }

    /// Ends it as Ctrl-C at a terminal would, and expects exit status 0.
    pub fn interrupt(mut self) -> Result<()> {
        self.process.signal(Signal::SIGINT)?;
        let status = self.process.wait(END)?;
        if !status.success() {
            bail!("egret up ended with {status} after SIGINT:\n{}", self.process.tail());
        }
        // Said here, because it is cleaned up after on drop.
        if self.run_dir.exists() {
            bail!("egret up left {} behind:\n{}", self.run_dir.display(), self.process.tail());
        }
        Ok(())
    }
}

impl Drop for Egret {
    fn drop(&mut self) {
        // A failure shows in what is left, which is what tests and demo look at.
        let _ = self.process.terminate();
        if self.run_dir.exists() {
            // It was killed and could not.
            let _ = clean_up_after_crash(&self.binary, &self.run_dir);
        }
    }
}

/// The product's binary: `EGRET_BIN` (from the workspace's root, where it is relative), else the release build.
pub fn binary() -> Result<PathBuf> {
    let named = env::var_os("EGRET_BIN").map_or_else(|| PathBuf::from("target/release/egret"), PathBuf::from);
    let path = workspace().join(named);
    if !path.is_file() {
        bail!("no egret at {}: run `cargo build --release`, or name it in EGRET_BIN", path.display());
    }
    Ok(path)
}

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Takes away what an `egret up` left that was killed. Does nothing where nothing is left.
pub fn clean_up_after_crash(binary: &Path, run_dir: &Path) -> Result<()> {
    output(Command::new(binary).args(["agent", "--cleanup", "--run-dir"]).arg(run_dir)).map(drop)
}

/// The output of a verb, which has to succeed.
fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !output.status.success() {
        let arguments = command.get_args().map(|argument| argument.display().to_string()).collect::<Vec<_>>();
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`egret {}` failed ({}): {}", arguments.join(" "), output.status, stderr.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A port of an address of this machine that was free a moment ago. It lies below the ports that the kernel hands out by itself
/// (`ip_local_port_range`, 32768 and above by default): no connection that begins meanwhile gets it. None is given twice in a row,
/// and two tests at the same time begin at different ones.
pub fn free_port(address: Ipv4Addr) -> Result<u16> {
    const PORTS: RangeInclusive<u16> = 20_000..=32_000;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let start = std::process::id() as usize * 64;
    for _ in 0..PORTS.len() {
        let turn = start + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start() + u16::try_from(turn % PORTS.len()).expect("less than the ports");
        match TcpListener::bind((address, port)) {
            Ok(_) => return Ok(port),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => return Err(error).with_context(|| format!("cannot listen on {address}")),
        }
    }
    bail!("every port from {} to {} of {address} is taken", PORTS.start(), PORTS.end())
}
