//! The arguments of questions, to the roles of this machine or to those of a cluster.

use std::{net::SocketAddr, path::PathBuf};

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
pub(in crate::cli) struct Ui {
    #[command(flatten)]
    pub(in crate::cli) instance: Instance,
    #[command(flatten)]
    pub(in crate::cli) access: ClusterAccess,
    /// Where, on this machine: an address that is reached from elsewhere is refused; port 0 is any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8020", value_parser = loopback)]
    pub(in crate::cli) listen: SocketAddr,
    /// Print the address of the page that the gateway of this machine, or of this pod, serves itself (`egret gateway --page-address`)
    #[arg(long, conflicts_with_all = ["cluster", "context", "kubeconfig", "egret_namespace", "listen"])]
    pub(in crate::cli) gateway: bool,
}

/// Whoever reaches the page sees who talks to whom, in plain HTTP.
pub(super) fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "write it as 127.0.0.1:8020".to_owned())?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    let port = address.port();
    Err(format!(
        "the page is served to this machine only, over plain HTTP; from elsewhere reach it with `ssh -L {port}:127.0.0.1:{port}`, in a pod \
         with `kubectl port-forward`"
    ))
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

#[cfg(test)]
mod tests {
    use super::loopback;

    #[test]
    fn the_page_is_on_loopback_only() {
        for right in ["127.0.0.1:8020", "127.1.2.3:0", "[::1]:80"] {
            assert!(loopback(right).is_ok(), "{right}");
        }
        for wrong in ["0.0.0.0:8020", "[::]:8020", "192.0.2.1:80", "[::ffff:192.0.2.1]:80"] {
            assert!(loopback(wrong).unwrap_err().contains("ssh -L"), "{wrong}");
        }
        assert!(loopback("8020").unwrap_err().contains("127.0.0.1:8020"));
    }
}
