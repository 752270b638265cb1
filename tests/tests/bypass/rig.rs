//! What the tests share: Egret with everything allowed, the external service, a witness in its namespace, a helper outside
//! every workload.

use std::{
    collections::BTreeMap,
    env, fs,
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use egret_tests::{
    egret::{Part, binary, workspace},
    netns::Namespace,
    privileges,
    process::{self, Process},
    scenario::{Places, World},
    wait,
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use serde_json::Value;
use tempfile::TempDir;

/// Port of the witness.
const WITNESS: u16 = 8080;
/// What witness, helper and the link between them get to start.
pub(crate) const START: Duration = Duration::from_secs(10);
/// The switch of the kernel that lets groups use ping sockets.
pub(crate) const PING: &str = "/proc/sys/net/ipv4/ping_group_range";

/// Which ranges of addresses are in use by concurrent runs.
pub(crate) const LOCKS: &str = "/run/lock/egret-tests";

/// Everything, ended in the order of the fields.
pub(crate) struct Rig {
    _helper: Process,
    _witness: Process,
    pub(crate) world: World,
    _ping: PingSockets,
    socket: PathBuf,
    directory: TempDir,
}

/// Who runs the battery.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject {
    /// No workload.
    Unenrolled,
    /// A workload in the host's network namespace.
    Enrolled,
    /// A workload in a namespace of its own.
    Isolated,
}

/// `verdict` and `seen` by vector, and the rest of the report.
pub(crate) struct Battery {
    pub(crate) vectors: BTreeMap<String, (String, String)>,
    pub(crate) report: Value,
    pub(crate) failed: bool,
}

impl Battery {
    /// What became of a vector.
    pub(crate) fn verdict(&self, vector: &str) -> &str {
        self.vectors.get(vector).map_or("no such vector", |(verdict, _)| verdict)
    }

    /// The vectors that ended so.
    pub(crate) fn with(&self, verdict: &str) -> Vec<&str> {
        let found = self.vectors.iter().filter(|(_, (found, _))| found == verdict);
        found.map(|(vector, _)| vector.as_str()).collect()
    }
}

impl Rig {
    /// Everything started; nothing when the test has to be left out.
    pub(crate) fn start(test: &str) -> Result<Option<Self>> {
        if !privileges::kernel_or_skip(test) {
            return Ok(None);
        }
        let directory = TempDir::with_prefix_in("egret-test-", "/run")?;
        let places = Places {
            egret: binary()?,
            external: PathBuf::from(env!("CARGO_BIN_EXE_egret-external")),
            steps: workspace().join("deploy/demo"),
            work: directory.path().join("files"),
            run: directory.path().join("run"),
        };
        let namespace = Namespace::create("egb", Path::new(LOCKS))?;
        add_v6(&namespace)?;
        let world = World::start(places, namespace)?;

        let mut command = world.external.namespace().command(world.egret.binary());
        command.args(["verify-bypass", "--witness", &format!("[::]:{WITNESS}")]).stdout(Stdio::null());
        let witness = Process::spawn("the witness", &mut command)?;
        let socket = directory.path().join("helper");
        let mut command = Command::new(world.egret.binary());
        command.args(["verify-bypass", "--hand-out"]).arg(&socket).stdout(Stdio::null());
        let helper = Process::spawn("the helper", &mut command)?;
        let rig = Self {
            world,
            _helper: helper,
            _witness: witness,
            _ping: PingSockets::allow()?,
            socket,
            directory,
        };
        wait::until("witness and helper", START, || {
            let there = std::net::TcpStream::connect((rig.world.external.address(), WITNESS)).is_ok();
            Ok((there && rig.socket.exists()).then_some(()))
        })?;
        Ok(Some(rig))
    }

    /// A directory of the test's own.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The witness.
    pub(crate) fn target(&self) -> String {
        format!("{}:{WITNESS}", self.world.external.address())
    }

    /// Runs the battery in a workload of the host's network, as root with some capabilities only.
    pub(crate) fn battery_with(&self, capabilities: &str) -> Result<Battery> {
        let early = early_socket()?;
        let mut command = self.world.egret.exec("default/sleep", false);
        command.args(["setpriv", "--bounding-set", capabilities]).arg(self.world.egret.binary());
        command.args(["verify-bypass", "-o", "json"]).args(self.aims(&self.socket, early.as_raw_fd()));
        let battery = outcomes(&mut command);
        drop(early);
        battery
    }

    /// Runs the battery at the witness, with everything that a test can give it.
    pub(crate) fn battery(&self, subject: Subject) -> Result<Battery> {
        let early = early_socket()?;
        let mut arguments = self.aims(&self.socket, early.as_raw_fd());
        if !matches!(subject, Subject::Unenrolled) {
            arguments
                .extend(["--gateway".to_owned(), format!("127.0.0.1:{}", self.world.egret.tunnel_port())]);
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let battery = self.run(subject, &arguments);
        drop(early);
        battery
    }

    /// Arguments of a battery: the witness, and who hands in sockets.
    pub(crate) fn aims(&self, helper: &Path, inherited: RawFd) -> Vec<String> {
        let targets = [self.target(), format!("[{}]:{WITNESS}", v6(self.world.external.namespace(), 2))];
        let mut arguments: Vec<String> =
            targets.into_iter().flat_map(|target| ["--target".to_owned(), target]).collect();
        arguments.extend(["--helper".to_owned(), helper.to_string_lossy().into_owned()]);
        arguments.extend(["--inherited".to_owned(), inherited.to_string()]);
        arguments
    }

    /// The agent's listeners on 127.0.0.1: one per workload of the host's network namespace.
    pub(crate) fn listeners(&self) -> Result<Vec<String>> {
        let agent = format!("pid={},", self.world.egret.pid(Part::Agent)?);
        let sockets = process::run("ss", &["-Htlnp", "src", "127.0.0.1"])?;
        let agents = sockets.lines().filter(|line| line.contains(&agent));
        Ok(agents.filter_map(|line| line.split_whitespace().nth(3)).map(str::to_owned).collect())
    }

    /// Runs the battery with these arguments.
    pub(crate) fn run(&self, subject: Subject, arguments: &[&str]) -> Result<Battery> {
        let binary = self.world.egret.binary();
        let mut command = match subject {
            Subject::Unenrolled => Command::new(binary),
            Subject::Enrolled | Subject::Isolated => {
                let mut command =
                    self.world.egret.exec("default/sleep", matches!(subject, Subject::Isolated));
                command.arg(binary);
                command
            }
        };
        outcomes(command.args(["verify-bypass", "-o", "json"]).args(arguments))
    }
}

/// A socket made outside every workload, in the calling thread's network namespace, and without close-on-exec.
pub(crate) fn early_socket() -> Result<OwnedFd> {
    Ok(socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?)
}

/// Runs a battery whose report is JSON.
pub(crate) fn outcomes(command: &mut Command) -> Result<Battery> {
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("the battery gave no JSON ({}): {said}", output.status))?;
    let outcomes = report["outcomes"].as_array().context("no outcomes")?;
    let text = |outcome: &Value, field: &str| outcome[field].as_str().unwrap_or_default().to_owned();
    let vectors = outcomes
        .iter()
        .map(|outcome| (text(outcome, "vector"), (text(outcome, "verdict"), text(outcome, "seen"))))
        .collect();
    ensure!(
        output.status.code().is_some_and(|code| code < 2),
        "the battery ended with {}: {said}",
        output.status
    );
    Ok(Battery { vectors, report, failed: !output.status.success() })
}

/// Gives both ends of the link addresses.
pub(crate) fn add_v6(namespace: &Namespace) -> Result<()> {
    let (outside, inside) = (format!("{}/64", v6(namespace, 1)), format!("{}/64", v6(namespace, 2)));
    process::run("ip", &["addr", "add", &outside, "dev", namespace.host_link(), "nodad"])?;
    process::run("ip", &["-n", namespace.name(), "addr", "add", &inside, "dev", "eth0", "nodad"])?;
    // Until the host's link-local address is its own for certain, it does not look for neighbours of those it forwards for.
    wait::until("the link's addresses", START, || {
        let link = namespace.host_link();
        let tentative = process::run("ip", &["-6", "-o", "addr", "show", "dev", link, "tentative"])?;
        Ok(tentative.trim().is_empty().then_some(()))
    })
}

/// An address of the range for documentation (RFC 3849): 1 is the host's end of the link, 2 the one inside.
pub(crate) fn v6(namespace: &Namespace, end: u8) -> String {
    // Told apart by the IPv4 address, of which concurrent runs have different ones.
    let [.., network, host] = namespace.address().octets();
    format!("2001:db8:e:{network:x}{host:02x}::{end}")
}

/// Lets root's group use ping sockets while it lives.
struct PingSockets {
    before: String,
}

impl PingSockets {
    fn allow() -> Result<Self> {
        let before = fs::read_to_string(PING)?;
        fs::write(PING, "0 0")?;
        Ok(Self { before })
    }
}

impl Drop for PingSockets {
    fn drop(&mut self) {
        // The tests are over; what is left is the machine's own switch, wider than it was.
        let _ = fs::write(PING, &self.before);
    }
}
