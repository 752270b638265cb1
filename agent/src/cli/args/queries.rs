//! The arguments of questions, to the roles of this machine or to those of a cluster.

use std::path::PathBuf;

use super::{ClusterAccess, Instance, Output, WorkloadName, roles::Tunnels};

/// A question to the running roles.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Query {
    #[command(flatten)]
    pub(in crate::cli) instance: Instance,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Status {
    #[command(flatten)]
    pub(in crate::cli) query: Query,
    #[command(flatten)]
    pub(in crate::cli) access: ClusterAccess,
    /// Of a cluster: list everything that is enrolled
    #[arg(long)]
    pub(in crate::cli) pods: bool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Check {
    /// Directory of YAML files
    #[arg(value_name = "DIR", conflicts_with_all = ["cluster", "context", "kubeconfig", "egret_namespace"])]
    pub(in crate::cli) directory: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) access: ClusterAccess,
    /// Print what concerns this namespace only; everything is read, and counts
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub(in crate::cli) namespace: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Doctor {
    /// Directory of YAML files to validate as well
    #[arg(short = 'f', long, value_name = "DIR")]
    pub(in crate::cli) config: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) instance: Instance,
    #[command(flatten)]
    tunnels: Tunnels,
    #[command(flatten)]
    pub(in crate::cli) access: ClusterAccess,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

impl Doctor {
    pub(in crate::cli) fn subject(&self) -> crate::doctor::Subject {
        crate::doctor::Subject {
            run_dir: self.instance.run_dir(),
            hbone_address: self.tunnels.on_machine(),
            config: self.config.clone(),
        }
    }
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Explain {
    #[command(flatten)]
    pub(in crate::cli) instance: Instance,
    /// Directory of YAML files, instead of the running gateway's configuration
    #[arg(short = 'f', long, value_name = "DIR", conflicts_with_all = ["cluster", "context", "kubeconfig", "egret_namespace"])]
    pub(in crate::cli) config: Option<PathBuf>,
    #[command(flatten)]
    pub(in crate::cli) access: ClusterAccess,
    /// Who asks
    #[arg(long, value_name = "NAMESPACE/SERVICE-ACCOUNT")]
    pub(in crate::cli) from: WorkloadName,
    /// The address the workload dials, where it matters (unregistered hosts, opaque TCP)
    #[arg(long, value_name = "IP")]
    pub(in crate::cli) to: Option<std::net::IpAddr>,
    /// A request header, as `name: value`; may be given again
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    pub(in crate::cli) headers: Vec<String>,
    /// The method
    pub(in crate::cli) method: http::Method,
    /// The URL: http://HOST/PATH, or https://HOST/ for TLS that passes through
    pub(in crate::cli) url: String,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}
