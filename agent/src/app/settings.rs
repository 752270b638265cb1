//! What every role of one instance is told on its command line.

use std::{ffi::OsStr, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use super::run_dir::RunDir;
use crate::{
    mesh::{IdentityError, MeshSettings, SpiffeId},
    telemetry::traces::Tracing,
    workers::Tunnels,
};

/// The service account of agents, in Egret's own namespace.
pub(super) const AGENT_ACCOUNT: &str = "egret-agent";

/// Where the kubelet puts the token by which the CA knows us.
pub(super) const CA_TOKEN: &str = "/var/run/secrets/egret/token";

/// How many ended flows each side keeps unless it is told otherwise. One takes about 2 KB, so this is 20 MB.
pub const FLOW_CAPACITY: usize = 10_000;

/// How long connections may go on after a role is told to end.
pub(super) const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// The settings of an instance.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where its roles find each other.
    pub run_dir: RunDir,
    /// Where configuration comes from.
    pub source: Source,
    /// Where the gateway listens for tunnels, and on a machine the agent finds it.
    pub hbone_address: SocketAddr,
    /// Where gateway and CA answer probes; absent: nowhere.
    pub health_address: Option<SocketAddr>,
    /// Where metrics are served; absent: nowhere.
    pub metrics_address: Option<SocketAddr>,
    /// Where the gateway serves its page, on loopback; absent: nowhere.
    pub page_address: Option<SocketAddr>,
    /// The gateway writes denials as events of their pods.
    pub pod_events: bool,
    /// How the gateway ends.
    pub ending: Ending,
    /// How long connections of an agent may go on after another one has taken over.
    pub take_over_drain: Duration,
    /// How many ended flows agent and gateway each keep; 0: no flow is recorded.
    pub flow_capacity: usize,
    /// Where the gateway sends spans; absent: nothing is traced.
    pub tracing: Option<Tracing>,
}

/// How a gateway ends that was told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// How long it goes on taking new tunnels: so long agents may take to hear of its end.
    pub delay: Duration,
    /// After this long, counted from the signal as well, what still goes on is cut.
    pub deadline: Duration,
}

impl Ending {
    /// What is usual with this source of configuration. On a cluster agents hear of it by way of the Kubernetes API; on a machine
    /// they end with it.
    pub fn usual(source: &Source) -> Self {
        match source {
            Source::Directory(_) => Self { delay: Duration::ZERO, deadline: DRAIN_DEADLINE },
            Source::Kubernetes => Self { delay: Duration::from_secs(5), deadline: Duration::from_secs(30) },
        }
    }
}

/// Where the configuration of an instance comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A directory of YAML files.
    Directory(PathBuf),
    /// The Kubernetes API: this process is a pod.
    Kubernetes,
}

impl Source {
    /// Where the other end of an agent's, or a gateway's, tunnels is.
    pub(super) fn tunnels(&self) -> Tunnels {
        match self {
            Self::Directory(_) => Tunnels::Local,
            Self::Kubernetes => Tunnels::Anywhere,
        }
    }

    /// The arguments by which a role is told.
    pub(super) fn arguments(&self) -> Vec<&OsStr> {
        match self {
            Self::Directory(directory) => vec!["--config".as_ref(), directory.as_os_str()],
            Self::Kubernetes => vec!["--kubernetes".as_ref()],
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(directory) => write!(f, "{}", directory.display()),
            Self::Kubernetes => f.write_str("the Kubernetes API"),
        }
    }
}

/// The identity of the egress gateway under these mesh settings: Istio's gateway chart names its service account so.
pub(super) fn gateway_identity(mesh: &MeshSettings) -> Result<SpiffeId, IdentityError> {
    SpiffeId::new(&mesh.trust_domain, &mesh.gateway.namespace, "istio-egressgateway")
}
