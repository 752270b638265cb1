//! What can be written on the command line.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};

use super::plugin;
use crate::{
    app::{
        Ending, Settings, Source,
        ca::{DEFAULT_LISTEN, Network},
        run_dir::{self, RunDir},
    },
    ca::Account,
    flow::FlowRecord,
    hbone,
    kubernetes::outside::Access,
};

/// The port on which gateway and CA answer probes of a kubelet: Istio's proxies use the same.
const HEALTH_PORT: u16 = 15021;

/// Secure egress without sidecars: eBPF capture, mutual TLS under workload identities, one shared egress gateway.
#[derive(Debug, Parser)]
#[command(name = "egret", version, propagate_version = true)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run agent, gateway and CA on this machine, configured from a directory of YAML files
    Up(Up),
    /// Run a command as a workload: captured, under an identity of its own
    Exec(Exec),
    /// Enrol a cgroup that is there: a service, a container, a process with all that shares its cgroup
    Enroll(Enroll),
    /// Release a workload that was enrolled by hand; it goes on, and what it dials from then on is direct
    Release(Release),
    /// List flows: who, to where, by which rule, how much
    Flows(Flows),
    /// Show workloads, configuration and counters; of a cluster, also nodes, gateways, certificates and what is wrong
    Status(Status),
    /// Validate a directory of YAML files, or what a cluster has
    Check(Check),
    /// Print CustomResourceDefinitions of the Istio kinds, as YAML, for clusters without Istio
    Crds(Output),
    /// Say what would happen to a request, and which object decides it
    Explain(Explain),
    /// Probe what Egret needs of this machine, or of every node of a cluster, and say what to do where it is missing
    Doctor(Doctor),
    /// Try to get out of a workload by every known way; run it with `egret exec`, and a witness outside
    VerifyBypass(VerifyBypass),
    /// Ask whether a role is ready, and say what is in the way (probes do)
    Ready(Ready),
    /// Take Egret off every node of the cluster, before it is deleted (`helm uninstall` does)
    Uninstall(Uninstall),
    /// Run the node agent (`egret up` does)
    Agent(Agent),
    /// Run the egress gateway (`egret up` does)
    Gateway(Gateway),
    /// Run the certificate authority (`egret up` does)
    Ca(Ca),
    /// Print what a role of this machine answers: `egret status` and the like run it in pods
    #[command(hide = true)]
    Ask(Ask),
}

impl Command {
    /// The verb, where it is one for the machine it runs on, and for no cluster.
    pub(super) fn of_a_machine(&self) -> Option<&'static str> {
        Some(match self {
            Self::Up(_) => "up",
            Self::Exec(_) => "exec",
            Self::Enroll(_) => "enroll",
            Self::Release(_) => "release",
            Self::VerifyBypass(_) => "verify-bypass",
            Self::Agent(_) => "agent",
            Self::Gateway(_) => "gateway",
            Self::Ca(_) => "ca",
            Self::Ask(_) => "ask",
            Self::Ready(_) => "ready",
            Self::Crds(_)
            | Self::Uninstall(_)
            | Self::Flows(_)
            | Self::Status(_)
            | Self::Check(_)
            | Self::Explain(_)
            | Self::Doctor(_) => return None,
        })
    }
}

/// Which Egret of this machine.
#[derive(Debug, clap::Args)]
pub(super) struct Instance {
    /// Directory for sockets and state; roles and CLI find each other through it
    #[arg(long, value_name = "DIR", default_value = run_dir::DEFAULT)]
    run_dir: PathBuf,
}

impl Instance {
    pub(super) fn run_dir(&self) -> RunDir {
        // Relative paths would mean something else to the other processes of the instance.
        RunDir::new(std::path::absolute(&self.run_dir).unwrap_or_else(|_| self.run_dir.clone()))
    }
}

/// Which cluster, for who asks from outside of it.
#[derive(Debug, clap::Args)]
pub(super) struct ClusterAccess {
    /// A cluster: the current context of the kubeconfig
    #[arg(long, conflicts_with = "context")]
    cluster: bool,
    /// A cluster: this context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// A cluster: by this kubeconfig, instead of `KUBECONFIG` or the one in the home directory
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A cluster: Egret is in this namespace of it; else it is looked for
    #[arg(long, value_name = "NAMESPACE")]
    egret_namespace: Option<String>,
}

impl ClusterAccess {
    /// The cluster, if one is meant: each of these arguments says so, and so does the name `kubectl-egret`.
    pub(super) fn cluster(&self) -> Option<Access> {
        self.chosen(plugin::is_plugin())
    }

    fn chosen(&self, plugin: bool) -> Option<Access> {
        let named = self.context.is_some() || self.kubeconfig.is_some() || self.egret_namespace.is_some();
        (plugin || self.cluster || named).then(|| Access {
            context: self.context.clone(),
            kubeconfig: self.kubeconfig.clone(),
            egret_namespace: self.egret_namespace.clone(),
        })
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Up {
    /// Directory of YAML files; changes are picked up
    #[arg(short = 'f', long, value_name = "DIR")]
    pub(super) config: PathBuf,
    #[command(flatten)]
    instance: Instance,
    #[command(flatten)]
    tunnels: Tunnels,
    #[command(flatten)]
    draining: Draining,
}

impl Up {
    pub(super) fn settings(&self) -> anyhow::Result<Settings> {
        settings(&self.instance, directory(&self.config)?, &self.tunnels, self.draining)
    }
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct Draining {
    /// How long connections may go on with an agent after another one has taken over
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain_deadline: u64,
}

#[derive(Debug, clap::Args)]
struct Tunnels {
    /// Address of the gateway's tunnel port [default: 127.0.0.1:15008; of a gateway with --kubernetes: [::]:15008]
    #[arg(long, value_name = "ADDRESS:PORT")]
    hbone_address: Option<SocketAddr>,
}

impl Tunnels {
    fn on_machine(&self) -> SocketAddr {
        self.hbone_address.unwrap_or((Ipv4Addr::LOCALHOST, hbone::PORT).into())
    }

    fn with(&self, source: &Source) -> SocketAddr {
        match source {
            Source::Directory(_) => self.on_machine(),
            Source::Kubernetes => self.hbone_address.unwrap_or((Ipv6Addr::UNSPECIFIED, hbone::PORT).into()),
        }
    }
}

/// Where a role's configuration comes from.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Configuration {
    /// Directory of YAML files; changes are picked up
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    /// This process is a pod: configuration, workloads and the other roles are found through the Kubernetes API
    #[arg(long)]
    kubernetes: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Role {
    #[command(flatten)]
    configuration: Configuration,
    #[command(flatten)]
    instance: Instance,
    #[command(flatten)]
    tunnels: Tunnels,
    /// Where to answer probes, /healthz/live and /healthz/ready [default: nowhere; with --kubernetes: [::]:15021]
    #[arg(long, value_name = "ADDRESS:PORT")]
    health_address: Option<SocketAddr>,
}

impl Role {
    pub(super) fn settings(&self) -> anyhow::Result<Settings> {
        let source = self.configuration.source()?;
        let health_address = self
            .health_address
            .or_else(|| (source == Source::Kubernetes).then(|| (Ipv6Addr::UNSPECIFIED, HEALTH_PORT).into()));
        // No other role than the agent can be taken over.
        let settings = settings(&self.instance, source, &self.tunnels, Draining { drain_deadline: 0 })?;
        Ok(Settings { health_address, ..settings })
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Gateway {
    #[command(flatten)]
    role: Role,
    /// How long to go on taking new tunnels after SIGTERM, until agents have heard of the end [default: 0; with --kubernetes: 5]
    #[arg(long, value_name = "SECONDS")]
    drain_delay: Option<u64>,
    /// How long after SIGTERM what still goes on is cut [default: 5; with --kubernetes: 30]
    #[arg(long, value_name = "SECONDS")]
    drain_deadline: Option<u64>,
}

impl Gateway {
    pub(super) fn settings(&self) -> anyhow::Result<Settings> {
        let settings = self.role.settings()?;
        let usual = settings.ending;
        let deadline = self.drain_deadline.map_or(usual.deadline, Duration::from_secs);
        let delay = self.drain_delay.map_or(usual.delay.min(deadline), Duration::from_secs);
        let ending = Ending { delay, deadline };
        anyhow::ensure!(
            ending.delay <= ending.deadline,
            "--drain-delay {} is longer than --drain-deadline {}: both count from the signal, so the deadline has to be the later one",
            ending.delay.as_secs(),
            ending.deadline.as_secs(),
        );
        Ok(Settings { ending, ..settings })
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Ca {
    #[command(flatten)]
    role: Role,
    /// With --kubernetes, where agents and gateways find it
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = DEFAULT_LISTEN)]
    listen: SocketAddr,
    /// With --kubernetes, the service account of agents [default: egret-agent in the CA's own namespace]
    #[arg(long, value_name = "NAMESPACE/SERVICE-ACCOUNT")]
    agent_account: Option<WorkloadName>,
}

impl Ca {
    pub(super) fn settings(&self) -> anyhow::Result<Settings> {
        self.role.settings()
    }

    pub(super) fn network(&self) -> Network {
        let account =
            |account: WorkloadName| Account { namespace: account.namespace, name: account.service_account };
        Network { listen: self.listen, agent: self.agent_account.clone().map(account) }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Agent {
    #[command(flatten)]
    configuration: Configuration,
    /// Take away everything an instance left on this machine, and nothing else's: what `egret exec` ran is ended, services and
    /// containers are released and go on
    #[arg(long, group = "Configuration")]
    pub(super) cleanup: bool,
    /// Take the workloads over from an agent that runs, without a gap; it ends when its connections have ended
    #[arg(long, conflicts_with = "cleanup")]
    pub(super) take_over: bool,
    #[command(flatten)]
    pub(super) instance: Instance,
    #[command(flatten)]
    tunnels: Tunnels,
    #[command(flatten)]
    draining: Draining,
}

impl Agent {
    pub(super) fn settings(&self) -> anyhow::Result<Settings> {
        settings(&self.instance, self.configuration.source()?, &self.tunnels, self.draining)
    }
}

impl Configuration {
    fn source(&self) -> anyhow::Result<Source> {
        self.config.as_deref().map_or(Ok(Source::Kubernetes), directory)
    }
}

/// Relative paths would mean something else to the other processes of the instance.
fn directory(path: &Path) -> anyhow::Result<Source> {
    let absolute = std::path::absolute(path);
    Ok(Source::Directory(absolute.with_context(|| format!("configuration directory {}", path.display()))?))
}

fn settings(
    instance: &Instance,
    source: Source,
    tunnels: &Tunnels,
    draining: Draining,
) -> anyhow::Result<Settings> {
    Ok(Settings {
        run_dir: instance.run_dir(),
        hbone_address: tunnels.with(&source),
        health_address: None,
        ending: Ending::usual(&source),
        source,
        take_over_drain: Duration::from_secs(draining.drain_deadline),
    })
}

#[derive(Debug, clap::Args)]
pub(super) struct Ready {
    #[command(flatten)]
    pub(super) instance: Instance,
    /// The role
    #[arg(value_enum)]
    pub(super) role: RoleName,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum RoleName {
    /// The node agent; in a pod that of this pod
    Agent,
    /// The egress gateway
    Gateway,
    /// The certificate authority
    Ca,
}

#[derive(Debug, clap::Args)]
pub(super) struct Uninstall {
    #[command(flatten)]
    pub(super) access: ClusterAccess,
    /// How long the agents may take
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(super) timeout: u64,
}

#[derive(Debug, clap::Args)]
pub(super) struct Exec {
    #[command(flatten)]
    pub(super) instance: Instance,
    /// Give the command a network namespace of its own: loopback only, so that nothing but captured connections gets out
    #[arg(long)]
    pub(super) netns: bool,
    /// Whose identity: namespace and service account
    #[arg(value_name = "NAMESPACE/SERVICE-ACCOUNT")]
    pub(super) workload: WorkloadName,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(super) command: Vec<std::ffi::OsString>,
}

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["cgroup", "pid", "unit"])))]
pub(super) struct Enroll {
    #[command(flatten)]
    pub(super) instance: Instance,
    /// The cgroup: absolute, or below the root of the hierarchy, such as system.slice/backup.service
    #[arg(long, value_name = "PATH")]
    pub(super) cgroup: Option<PathBuf>,
    /// The cgroup that this process is in
    #[arg(long, value_name = "PID")]
    pub(super) pid: Option<u32>,
    /// The cgroup of this systemd unit or slice; a name without a dot is a service's
    #[arg(long, value_name = "NAME")]
    pub(super) unit: Option<String>,
    /// Whose identity: namespace and service account
    #[arg(value_name = "NAMESPACE/SERVICE-ACCOUNT")]
    pub(super) workload: WorkloadName,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct Release {
    #[command(flatten)]
    pub(super) instance: Instance,
    /// Its number in `egret status`
    #[arg(value_name = "ID")]
    pub(super) id: u32,
}

/// `namespace/service-account`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WorkloadName {
    pub(super) namespace: String,
    pub(super) service_account: String,
}

impl std::str::FromStr for WorkloadName {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let (namespace, service_account) =
            s.split_once('/').ok_or("write it as NAMESPACE/SERVICE-ACCOUNT, such as default/sleep")?;
        // The trust domain is the agent's to say; the names must be right for any.
        crate::mesh::SpiffeId::new("any", namespace, service_account).map_err(|e| e.to_string())?;
        Ok(Self { namespace: namespace.to_owned(), service_account: service_account.to_owned() })
    }
}

/// A question to the running roles.
#[derive(Debug, clap::Args)]
pub(super) struct Query {
    #[command(flatten)]
    pub(super) instance: Instance,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct Status {
    #[command(flatten)]
    pub(super) query: Query,
    #[command(flatten)]
    pub(super) access: ClusterAccess,
    /// Of a cluster: list everything that is enrolled
    #[arg(long)]
    pub(super) pods: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Flows {
    #[command(flatten)]
    pub(super) query: Query,
    #[command(flatten)]
    pub(super) access: ClusterAccess,
    /// Of workloads in this namespace only
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub(super) namespace: Option<String>,
    /// Of the pods of this name only; what is left is what their nodes' agents know
    #[arg(long, value_name = "NAME")]
    pub(super) pod: Option<String>,
}

impl Flows {
    /// Whether this flow is asked for.
    pub(super) fn selects(&self, flow: &FlowRecord) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| flow.workload.namespace() == namespace)
            && self.pod.as_ref().is_none_or(|pod| flow.pod.as_deref() == Some(pod))
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Ask {
    #[command(flatten)]
    pub(super) instance: Instance,
    /// agent or gateway
    pub(super) role: String,
    /// What to ask it for, such as /status
    pub(super) path: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct Output {
    /// How to print
    #[arg(short = 'o', long = "output", value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    pub(super) format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

#[derive(Debug, clap::Args)]
pub(super) struct Check {
    /// Directory of YAML files
    #[arg(value_name = "DIR", conflicts_with_all = ["cluster", "context", "kubeconfig", "egret_namespace"])]
    pub(super) directory: Option<PathBuf>,
    #[command(flatten)]
    pub(super) access: ClusterAccess,
    /// Print what concerns this namespace only; everything is read, and counts
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub(super) namespace: Option<String>,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    /// Directory of YAML files to validate as well
    #[arg(short = 'f', long, value_name = "DIR")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) instance: Instance,
    #[command(flatten)]
    tunnels: Tunnels,
    #[command(flatten)]
    pub(super) access: ClusterAccess,
    #[command(flatten)]
    pub(super) output: Output,
}

impl Doctor {
    pub(super) fn subject(&self) -> crate::doctor::Subject {
        crate::doctor::Subject {
            run_dir: self.instance.run_dir(),
            hbone_address: self.tunnels.on_machine(),
            config: self.config.clone(),
        }
    }
}

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("part").required(true).args(["target", "witness", "hand_out"])))]
pub(super) struct VerifyBypass {
    /// What to aim at: a witness, else any HTTP server; again for IPv6. Nothing else is sent to, but loopback
    #[arg(long, value_name = "ADDRESS:PORT")]
    target: Vec<SocketAddr>,
    /// Be the witness: run outside, listen here, and watch what reaches this network namespace
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) witness: Option<SocketAddr>,
    /// Be the helper: run outside, and hand out sockets at this path
    #[arg(long, value_name = "PATH")]
    pub(super) hand_out: Option<PathBuf>,
    /// Where a helper hands out sockets from outside the workload
    #[arg(long, value_name = "PATH", requires = "target")]
    helper: Option<PathBuf>,
    /// Descriptor of an unbound TCP socket that was opened before enrolment
    #[arg(long, value_name = "FD", requires = "target")]
    inherited: Option<std::os::fd::RawFd>,
    /// The gateway's tunnel port, to be tried without a certificate
    #[arg(long, value_name = "ADDRESS:PORT", requires = "target")]
    gateway: Option<SocketAddr>,
    /// The agent's listener for another workload of this network namespace
    #[arg(long, value_name = "ADDRESS:PORT", requires = "target")]
    listener: Option<SocketAddr>,
    /// Try 169.254.169.254, too, which is no address of yours
    #[arg(long, requires = "target")]
    metadata: bool,
    /// Try one vector, and print what was seen
    #[arg(long, value_name = "VECTOR", requires = "target", hide = true)]
    pub(super) single: Option<String>,
    #[command(flatten)]
    pub(super) output: Output,
}

impl VerifyBypass {
    pub(super) fn context(&self) -> crate::verify_bypass::Context {
        crate::verify_bypass::Context {
            target: self.target.iter().find_map(|target| match target {
                SocketAddr::V4(target) => Some(*target),
                SocketAddr::V6(_) => None,
            }),
            target_v6: self.target.iter().find_map(|target| match target {
                SocketAddr::V4(_) => None,
                SocketAddr::V6(target) => Some(*target),
            }),
            gateway: self.gateway,
            listener: self.listener,
            inherited: self.inherited,
            helper: self.helper.clone(),
            metadata: self.metadata,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    #[command(flatten)]
    pub(super) instance: Instance,
    /// Directory of YAML files, instead of the running gateway's configuration
    #[arg(short = 'f', long, value_name = "DIR", conflicts_with_all = ["cluster", "context", "kubeconfig", "egret_namespace"])]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) access: ClusterAccess,
    /// Who asks
    #[arg(long, value_name = "NAMESPACE/SERVICE-ACCOUNT")]
    pub(super) from: WorkloadName,
    /// The address the workload dials, where it matters (unregistered hosts, opaque TCP)
    #[arg(long, value_name = "IP")]
    pub(super) to: Option<std::net::IpAddr>,
    /// A request header, as `name: value`; may be given again
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    pub(super) headers: Vec<String>,
    /// The method
    pub(super) method: http::Method,
    /// The URL: http://HOST/PATH, or https://HOST/ for TLS that passes through
    pub(super) url: String,
    #[command(flatten)]
    pub(super) output: Output,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    #[test]
    fn a_gateway_ends_as_is_usual_where_it_runs_or_as_it_is_told() {
        let ending = |arguments: &[&str]| {
            let line = ["egret", "gateway"].iter().chain(arguments);
            let super::Command::Gateway(gateway) = super::Args::parse_from(line).command else { panic!() };
            gateway.settings().map(|settings| {
                let super::Ending { delay, deadline } = settings.ending;
                (
                    delay.as_secs(),
                    deadline.as_secs(),
                    settings.hbone_address.to_string(),
                    settings.health_address,
                )
            })
        };
        let machine = ending(&["--config", "/etc/egret"]).unwrap();
        assert_eq!(machine, (0, 5, "127.0.0.1:15008".to_owned(), None));
        let health = Some("[::]:15021".parse().unwrap());
        let cluster = ending(&["--kubernetes"]).unwrap();
        assert_eq!(cluster, (5, 30, "[::]:15008".to_owned(), health));
        let short = ending(&["--kubernetes", "--drain-deadline", "3"]).unwrap();
        assert_eq!((short.0, short.1), (3, 3), "the usual delay fits into any deadline");
        assert!(ending(&["--kubernetes", "--drain-delay", "9", "--drain-deadline", "3"]).is_err());
    }

    #[test]
    fn the_command_line_is_consistent() {
        super::Args::command().debug_assert();
    }

    #[test]
    fn a_cluster_is_meant_when_an_argument_or_the_name_says_so() {
        let access = |arguments: &[&str]| {
            let all = ["egret", "status"].iter().chain(arguments);
            let super::Command::Status(status) = super::Args::parse_from(all).command else {
                unreachable!("it was status")
            };
            status.access
        };
        assert_eq!(access(&[]).chosen(false), None);
        assert_eq!(access(&[]).chosen(true), Some(super::Access::default()));
        assert_eq!(access(&["--cluster"]).chosen(false), Some(super::Access::default()));
        let named = access(&["--context", "prod"]).chosen(false).unwrap();
        assert_eq!(named.context.as_deref(), Some("prod"));
        assert!(access(&["--egret-namespace", "x"]).chosen(false).is_some());
    }

    #[test]
    fn a_workload_is_a_namespace_and_a_service_account() {
        assert!("default/sleep".parse::<super::WorkloadName>().is_ok());
        assert!("default".parse::<super::WorkloadName>().is_err());
        assert!("Default/sleep".parse::<super::WorkloadName>().is_err());
        assert!("a/b/c".parse::<super::WorkloadName>().is_err());
    }
}
