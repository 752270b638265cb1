//! What the roles say of themselves: the JSON of `egret status -o json`.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};

use super::Stage;
use crate::{
    hbone::client::GatewayState,
    kubernetes::{Cluster, ranges::Ranges},
    node::{locks::Locks, sockets::SocketStatus, workload::Workload},
    source::report::Report,
    tls::store::{CertificateStatus, CertificateStore},
};

/// Which process answers, and how it stands with what every role needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoleStatus {
    /// Its version of Egret; empty where that is older than this field.
    pub version: String,
    /// Its pod, on a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Its node, on a cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its own certificates, or those of its workloads.
    pub certificates: CertificateStatus,
    /// What is in the way of reading the Kubernetes API, or of what the role does with it, and what it waits for; one sentence each.
    pub cluster_problems: Vec<String>,
}

impl RoleStatus {
    /// Of this process.
    pub fn of(cluster: Option<&Cluster>, certificates: &CertificateStore) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pod: cluster.map(|cluster| cluster.own.name.clone()),
            node: cluster.map(|cluster| cluster.own.node.clone()),
            certificates: certificates.status(),
            cluster_problems: cluster.map(|cluster| cluster.standing.problems()).unwrap_or_default(),
        }
    }
}

/// A workload, where it is, which locks hold for it, and what is known of its sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadStatus {
    /// What the agent knows of it.
    #[serde(flatten)]
    pub workload: Workload,
    /// The network namespaces its processes are in: `host` is the agent's own.
    pub networks: Vec<String>,
    /// Its locks.
    pub locks: Locks,
    /// What is known of its sockets.
    pub sockets: SocketStatus,
}

/// The agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Process id.
    pub pid: u32,
    /// How far it is.
    #[serde(default)]
    pub stage: Stage,
    /// Which agent this is.
    #[serde(flatten)]
    pub role: RoleStatus,
    /// The gateways it tunnels to.
    pub gateways: Vec<GatewayState>,
    /// Enrolled workloads.
    pub workloads: Vec<WorkloadStatus>,
    /// What stands in the way of WorkloadBindings and pods, one sentence each.
    #[serde(default)]
    pub binding_problems: Vec<String>,
    /// Parents of cgroups with a strict start, with what is in the way of guarding them.
    #[serde(default)]
    pub guards: BTreeMap<PathBuf, Option<String>>,
    /// What the cluster says is cluster-internal, and is bypassed; absent where there is no cluster.
    #[serde(default)]
    pub ranges: Option<Ranges>,
    /// Decisions of the kernel programs and of the agent, by name.
    pub counters: BTreeMap<String, u64>,
}

/// The gateway.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// Process id.
    pub pid: u32,
    /// Which gateway this is.
    #[serde(flatten)]
    pub role: RoleStatus,
    /// Its identity's trust domain.
    pub trust_domain: String,
    /// `ALLOW_ANY` or `REGISTRY_ONLY`.
    pub outbound_traffic_policy: String,
    /// What happens to connections of workloads while no agent runs: `REFUSE` or `BYPASS`.
    pub on_agent_down: String,
    /// Version of the configuration in force; counts up with every change.
    pub config_version: u64,
    /// What the last load found.
    pub report: Arc<Report>,
}
