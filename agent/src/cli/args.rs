//! What can be written on the command line.

mod flows;
mod queries;
mod roles;
mod top;
mod workloads;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

pub(super) use self::{
    flows::{Flow, Flows},
    queries::{Check, Doctor, Explain, Query, Status, Ui},
    roles::{Agent, Ca, Gateway, Up},
    top::Top,
    workloads::{Enroll, Exec, Release, VerifyBypass, WorkloadName},
};
use super::plugin;
use crate::{
    app::run_dir::{self, RunDir},
    kubernetes::outside::Access,
};

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
    /// Show one flow: every leg of it, who decided, and where the time went
    Flow(Flow),
    /// Watch rates, latencies, denials and failures by host, workload or rule, and look into them
    Top(Top),
    /// Serve a page to look at: traffic map, flows, policies with their hits, health; on this machine only, and read-only
    Ui(Ui),
    /// Show workloads, configuration and counters; of a cluster, also nodes, gateways, certificates and what is wrong
    Status(Status),
    /// Validate a directory of YAML files, or what a cluster has
    Check(Check),
    /// Print CustomResourceDefinitions of the Istio kinds, as YAML, for clusters without Istio
    Crds(Output),
    /// Print the script with which a shell completes this command line
    Completions(Completions),
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
            Self::Completions(_)
            | Self::Crds(_)
            | Self::Uninstall(_)
            | Self::Flows(_)
            | Self::Flow(_)
            | Self::Top(_)
            | Self::Status(_)
            | Self::Ui(_)
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
pub(super) struct Ask {
    #[command(flatten)]
    pub(super) instance: Instance,
    /// agent or gateway
    pub(super) role: String,
    /// What to ask it for, such as /status
    pub(super) path: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub(super) shell: clap_complete::Shell,
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

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

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
}
