//! What the roles say of themselves: the JSON of `egret status -o json`.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    node::{sockets::SocketStatus, workload::Workload},
    source::report::Report,
};

/// A role serves.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Ready {
    /// Always true: a role that is not ready does not answer.
    pub ready: bool,
}

/// The agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Process id.
    pub pid: u32,
    /// The gateway it tunnels to.
    pub gateway: SocketAddr,
    /// Enrolled workloads.
    pub workloads: Vec<WorkloadStatus>,
    /// Decisions of the kernel programs and of the agent, by name.
    pub counters: BTreeMap<String, u64>,
}

/// An enrolled workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WorkloadStatus {
    /// What it is.
    #[serde(flatten)]
    pub workload: Workload,
    /// What is known of its sockets.
    pub sockets: SocketStatus,
}

/// The gateway.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GatewayStatus {
    /// Process id.
    pub pid: u32,
    /// Its identity's trust domain.
    pub trust_domain: String,
    /// `ALLOW_ANY` or `REGISTRY_ONLY`.
    pub outbound_traffic_policy: String,
    /// Version of the configuration in force; counts up with every change.
    pub config_version: u64,
    /// What the last load found.
    pub report: Arc<Report>,
}
