//! What the tests share: Egret with everything allowed, the external service, a witness in its namespace, a helper outside
//! every workload.

use std::{
    collections::BTreeMap,
    env, fs,
    os::fd::{AsRawFd as _, OwnedFd},
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
/// What witness and helper get to start.
const START: Duration = Duration::from_secs(10);
/// The switch of the kernel that lets groups use ping sockets.
const PING: &str = "/proc/sys/net/ipv4/ping_group_range";

/// Everything, ended in the order of the fields.
pub(crate) struct Rig {
    _helper: Process,
    _witness: Process,
    pub(crate) world: World,
    _ping: PingSockets,
    socket: PathBuf,
    v6: String,
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
        let namespace = Namespace::create("egb", Path::new("/run/lock/egret-tests"))?;
        let v6 = add_v6(&namespace)?;
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
            v6,
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

    /// Runs the battery at the witness, with everything that a test can give it.
    pub(crate) fn battery(&self, subject: Subject) -> Result<Battery> {
        let v4 = self.target();
        let v6 = format!("[{}]:{WITNESS}", self.v6);
        let gateway = format!("127.0.0.1:{}", self.world.egret.tunnel_port());
        // Made here, outside every workload, and without close-on-exec.
        let early = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?;
        let fd = early.as_raw_fd().to_string();
        let helper = self.socket.to_string_lossy();
        let mut arguments = vec!["--target", &v4, "--target", &v6, "--helper", &helper, "--inherited", &fd];
        if !matches!(subject, Subject::Unenrolled) {
            arguments.extend(["--gateway", &gateway]);
        }
        self.run(subject, &arguments, Some(early))
    }

    /// The agent's listeners on 127.0.0.1: one per workload of the host's network namespace.
    pub(crate) fn listeners(&self) -> Result<Vec<String>> {
        let agent = format!("pid={},", self.world.egret.pid(Part::Agent)?);
        let sockets = process::run("ss", &["-Htlnp", "src", "127.0.0.1"])?;
        let agents = sockets.lines().filter(|line| line.contains(&agent));
        Ok(agents.filter_map(|line| line.split_whitespace().nth(3)).map(str::to_owned).collect())
    }

    /// Runs the battery with these arguments.
    pub(crate) fn run(
        &self,
        subject: Subject,
        arguments: &[&str],
        early: Option<OwnedFd>,
    ) -> Result<Battery> {
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
        let output =
            command.args(["verify-bypass", "-o", "json"]).args(arguments).stdin(Stdio::null()).output()?;
        drop(early);
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
}

/// Gives both ends of the link addresses of the range for documentation (RFC 3849); the one inside is returned.
fn add_v6(namespace: &Namespace) -> Result<String> {
    // Told apart by the IPv4 address, of which concurrent runs have different ones.
    let [.., network, host] = namespace.address().octets();
    let at = |end: u8| format!("2001:db8:e:{network:x}{host:02x}::{end}");
    let (outside, inside) = (format!("{}/64", at(1)), format!("{}/64", at(2)));
    process::run("ip", &["addr", "add", &outside, "dev", namespace.host_link(), "nodad"])?;
    process::run("ip", &["-n", namespace.name(), "addr", "add", &inside, "dev", "eth0", "nodad"])?;
    Ok(at(2))
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
