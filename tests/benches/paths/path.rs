//! The ways from a client to the external server that are compared, and one of them while it is in place.

mod egret;
mod envoy;
mod hop;

use std::{
    fs,
    net::SocketAddr,
    path::{Path as FilePath, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use egret_tests::{cgroup::Cgroup, egret::Egret, netns::Namespace, process::Process, wait};
use serde_json::Value;

use crate::{
    peers::Peers,
    place,
    server::{self, Server},
};

/// Policies, and service entries, of a large configuration.
const MANY_POLICIES: usize = 1_000;
const MANY_ENTRIES: usize = 10_000;
/// What a load gets beyond its own times.
const PATIENCE: Duration = Duration::from_mins(1);

/// A way to the external server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Path {
    NoProxy,
    DirectTls,
    NginxHop,
    HaproxyHop,
    EnvoyPair,
    EnvoyPairLarge,
    Egret,
    EgretLarge,
}

impl Path {
    pub(crate) const ALL: [Self; 8] = [
        Self::Egret,
        Self::EgretLarge,
        Self::EnvoyPair,
        Self::EnvoyPairLarge,
        Self::HaproxyHop,
        Self::NginxHop,
        Self::DirectTls,
        Self::NoProxy,
    ];

    /// As in the summary.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::NoProxy => "no_proxy",
            Self::DirectTls => "direct_mtls",
            Self::NginxHop => "nginx_hop",
            Self::HaproxyHop => "haproxy_hop",
            Self::EnvoyPair => "envoy_pair",
            Self::EnvoyPairLarge => "envoy_pair_1000_policies",
            Self::Egret => "egret",
            Self::EgretLarge => "egret_1000_policies_10000_entries",
        }
    }

    /// For people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::NoProxy => "no proxy, plaintext",
            Self::DirectTls => "no proxy, mutual TLS",
            Self::NginxHop => "one nginx hop",
            Self::HaproxyHop => "one HAProxy hop",
            Self::EnvoyPair => "Envoy pair",
            Self::EnvoyPairLarge => "Envoy pair, 1,000 policies",
            Self::Egret => "Egret",
            Self::EgretLarge => "Egret, 1,000 policies, 10,000 entries",
        }
    }

    /// What is configured, so that nobody need guess.
    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::NoProxy => "the client, on this machine, dials port 80 of the server",
            Self::DirectTls => "the client itself speaks TLS 1.3 with its certificate to port 443",
            Self::NginxHop => {
                "nginx on this machine: a worker per CPU, access log (combined) to a file, 512 idle upstream connections a worker, \
                 requests not buffered, TLS 1.3, server verified"
            }
            Self::HaproxyHop => {
                "HAProxy on this machine: a thread per CPU, httplog to a file, http-reuse always, TLS 1.3, server verified"
            }
            Self::EnvoyPair => {
                "sidecar: one nat rule (REDIRECT), a worker per CPU, original_dst, JSON access log; HTTP/2 and TLS 1.3 to the gateway; \
                 gateway: a worker per CPU, client certificate required, RBAC DENY and ALLOW with the same policies as Egret, JSON \
                 access log, TLS 1.3 and HTTP/1.1 to the server, verified; circuit breakers raised, statistics as by default"
            }
            Self::EnvoyPairLarge => "the same, and 1,000 more ALLOW policies at the gateway",
            Self::Egret => {
                "egret up (CPU of agent, gateway, CA and supervisor; memory of agent and gateway): the demo's configuration up to step 6, and five ALLOW policies of \
                 which one matches; access log, flow records and metrics on; the workload's cgroup enrolled, link lock included"
            }
            Self::EgretLarge => "the same, and 1,000 more ALLOW policies and 10,000 ServiceEntries",
        }
    }

    /// The peer that it takes.
    pub(crate) fn needs(self) -> Option<&'static str> {
        match self {
            Self::HaproxyHop => Some("haproxy"),
            Self::EnvoyPair | Self::EnvoyPairLarge => Some("envoy"),
            _ => None,
        }
    }

    /// Whether the proxies are asked who may.
    fn authorizes(self) -> bool {
        matches!(self, Self::EnvoyPair | Self::EnvoyPairLarge | Self::Egret | Self::EgretLarge)
    }
}

/// What all paths share.
pub(crate) struct Ground {
    pub(crate) peers: Peers,
    pub(crate) server: Server,
    /// Everything that is written is below it.
    pub(crate) directory: PathBuf,
    /// Workers of each proxy.
    pub(crate) workers: usize,
}

impl Ground {
    /// Of the product.
    fn run_dir(&self) -> PathBuf {
        self.directory.join(crate::RUN_DIR)
    }
}

/// A path in place. Ended in the order of the fields.
pub(crate) struct Running {
    path: Path,
    egret: Option<Egret>,
    processes: Vec<Process>,
    /// Processes whose memory does not count, below the next one.
    beside: Option<Cgroup>,
    proxies: Option<Cgroup>,
    /// Where the client is: the workload's cgroup, where there is a workload.
    client: Cgroup,
    namespace: Option<Namespace>,
    target: SocketAddr,
    /// Of the client, where it speaks TLS itself.
    tls: Option<PathBuf>,
    /// Access logs, which have to have something in them.
    logs: Vec<PathBuf>,
    directory: PathBuf,
}

impl Running {
    /// Starts everything anew, and proves that it is what it is said to be.
    pub(crate) fn start(path: Path, ground: &Ground) -> Result<Self> {
        let directory = ground.directory.join("visit");
        if directory.exists() {
            fs::remove_dir_all(&directory)?;
        }
        fs::create_dir_all(&directory)?;
        let mut running = Self {
            path,
            egret: None,
            processes: Vec::new(),
            beside: None,
            proxies: None,
            client: place::cgroup()?,
            namespace: None,
            target: ground.server.plain(),
            tls: None,
            logs: Vec::new(),
            directory,
        };
        running.set_up(ground).and_then(|()| running.prove()).map_err(|error| running.explained(error))?;
        Ok(running)
    }

    fn set_up(&mut self, ground: &Ground) -> Result<()> {
        match self.path {
            Path::NoProxy => Ok(()),
            Path::DirectTls => {
                self.target = ground.server.tls();
                self.tls = Some(ground.server.certificates().to_owned());
                Ok(())
            }
            Path::NginxHop => hop::nginx(self, ground),
            Path::HaproxyHop => hop::haproxy(self, ground),
            Path::EnvoyPair => envoy::pair(self, ground, 0),
            Path::EnvoyPairLarge => envoy::pair(self, ground, MANY_POLICIES),
            Path::Egret => egret::up(self, ground, 0, 0),
            Path::EgretLarge => egret::up(self, ground, MANY_POLICIES, MANY_ENTRIES),
        }
    }

    /// A request arrives by TLS with the client's certificate (or plain, where nobody originates it), and authorization is on.
    fn prove(&self) -> Result<()> {
        let who = if self.path == Path::NoProxy { server::WHO_PLAIN } else { server::WHO_TLS };
        self.load(&["--kind", "probe", "--path", server::WHO, "--body", who])?;
        if self.path.authorizes() {
            self.load(&["--kind", "probe", "--path", "/headers", "--status", "403"])?;
        }
        Ok(())
    }

    /// Runs the client with these arguments; what it reports.
    pub(crate) fn load(&self, arguments: &[&str]) -> Result<Value> {
        let report = self.directory.join("report.json");
        let client = std::env::current_exe()?;
        let mut command = place::command(self.namespace.as_ref(), &self.client, &client);
        command.args(["load", "--target", &self.target.to_string(), "--report"]).arg(&report).args(arguments);
        if let Some(tls) = &self.tls {
            command.arg("--tls").arg(tls);
        }
        if let Some(proxies) = &self.proxies {
            command.arg("--proxies").arg(proxies.path());
        }
        let mut process = Process::spawn("the client", &mut command)?;
        let status = wait::until("the client to end", PATIENCE, || process.try_status())?;
        ensure!(
            status.success(),
            "the client ({}): {}",
            arguments.join(" "),
            process.wait(PATIENCE).map(|_| process.tail())?
        );
        let text = fs::read_to_string(&report)?;
        fs::remove_file(&report)?;
        serde_json::from_str(&text).with_context(|| format!("the client reported {text:?}"))
    }

    /// Whether anything is between client and server.
    pub(crate) fn has_proxies(&self) -> bool {
        self.proxies.is_some()
    }

    /// Ends everything.
    pub(crate) fn stop(mut self) -> Result<()> {
        for log in &self.logs {
            let length = fs::metadata(log).map_or(0, |file| file.len());
            ensure!(length > 0, "{} is empty: was the path taken at all?", log.display());
        }
        if let Some(egret) = self.egret.take() {
            egret.interrupt()?;
        }
        for process in &mut self.processes {
            process.terminate()?;
        }
        Ok(())
    }

    /// A process that is a part of the path.
    fn add(&mut self, process: Process) {
        self.processes.push(process);
    }

    /// An error of this path, with what its proxies wrote last.
    pub(crate) fn explained(&mut self, error: anyhow::Error) -> anyhow::Error {
        if wait::interrupted() {
            return error;
        }
        let mut wrote = Vec::new();
        if let Some(egret) = &mut self.egret {
            wrote.push(format!("egret up wrote:\n{}", egret.process().tail()));
        }
        wrote.extend(self.processes.iter().map(Process::tail).filter(|tail| !tail.is_empty()));
        let logs = self.logs.iter().map(|log| (log, tail(log))).filter(|(_, tail)| !tail.is_empty());
        wrote.extend(logs.map(|(log, tail)| format!("{} ends in:\n{tail}", log.display())));
        anyhow::anyhow!("{error:#}\n{}", wrote.join("\n"))
    }
}

/// The last lines of a file.
fn tail(file: &FilePath) -> String {
    const BYTES: usize = 2_000;
    let bytes = fs::read(file).unwrap_or_default();
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(BYTES)..]).into_owned()
}

/// A namespace for a client, in which the server is reached by way of this machine.
fn client_side() -> Result<Namespace> {
    let namespace = Namespace::create(server::PREFIX, FilePath::new(server::LOCKS))?;
    let gateway = namespace.host_address().to_string();
    egret_tests::process::run("ip", &["-n", namespace.name(), "route", "add", "default", "via", &gateway])?;
    Ok(namespace)
}

/// A mistake in the order of set-up, which is ours.
fn namespace_of(running: &Running) -> Result<&Namespace> {
    match &running.namespace {
        Some(namespace) => Ok(namespace),
        None => bail!("no namespace was made for {}", running.path.title()),
    }
}
