//! The arguments of verbs for workloads of this machine.

use std::{net::SocketAddr, path::PathBuf};

use super::{Instance, Output};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Exec {
    #[command(flatten)]
    pub(in crate::cli) instance: Instance,
    /// Give the command a network namespace of its own: loopback only, so that nothing but captured connections gets out
    #[arg(long)]
    pub(in crate::cli) netns: bool,
    /// Whose identity: namespace and service account
    #[arg(value_name = "NAMESPACE/SERVICE-ACCOUNT")]
    pub(in crate::cli) workload: WorkloadName,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(in crate::cli) command: Vec<std::ffi::OsString>,
}

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["cgroup", "pid", "unit"])))]
pub(in crate::cli) struct Enroll {
    #[command(flatten)]
    pub(in crate::cli) instance: Instance,
    /// The cgroup: absolute, or below the root of the hierarchy, such as system.slice/backup.service
    #[arg(long, value_name = "PATH")]
    pub(in crate::cli) cgroup: Option<PathBuf>,
    /// The cgroup that this process is in
    #[arg(long, value_name = "PID")]
    pub(in crate::cli) pid: Option<u32>,
    /// The cgroup of this systemd unit or slice; a name without a dot is a service's
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) unit: Option<String>,
    /// Whose identity: namespace and service account
    #[arg(value_name = "NAMESPACE/SERVICE-ACCOUNT")]
    pub(in crate::cli) workload: WorkloadName,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Release {
    #[command(flatten)]
    pub(in crate::cli) instance: Instance,
    /// Its number in `egret status`
    #[arg(value_name = "ID")]
    pub(in crate::cli) id: u32,
}

/// `namespace/service-account`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct WorkloadName {
    pub(in crate::cli) namespace: String,
    pub(in crate::cli) service_account: String,
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

#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("part").required(true).args(["target", "witness", "hand_out"])))]
pub(in crate::cli) struct VerifyBypass {
    /// What to aim at: a witness, else any HTTP server; again for IPv6. Nothing else is sent to, but loopback
    #[arg(long, value_name = "ADDRESS:PORT")]
    target: Vec<SocketAddr>,
    /// Be the witness: run outside, listen here, and watch what reaches this network namespace
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(in crate::cli) witness: Option<SocketAddr>,
    /// Be the helper: run outside, and hand out sockets at this path
    #[arg(long, value_name = "PATH")]
    pub(in crate::cli) hand_out: Option<PathBuf>,
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
    pub(in crate::cli) single: Option<String>,
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

impl VerifyBypass {
    pub(in crate::cli) fn context(&self) -> crate::verify_bypass::Context {
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

#[cfg(test)]
mod tests {
    use super::WorkloadName;

    #[test]
    fn a_workload_is_a_namespace_and_a_service_account() {
        assert!("default/sleep".parse::<WorkloadName>().is_ok());
        assert!("default".parse::<WorkloadName>().is_err());
        assert!("Default/sleep".parse::<WorkloadName>().is_err());
        assert!("a/b/c".parse::<WorkloadName>().is_err());
    }
}
