//! One flow as one side saw it: the JSON of `egret flows -o json` and of the admin socket.

use std::{fmt, net::SocketAddr, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{DecidedBy, FlowId, Legs, Process, Waits};
use crate::{hbone::baggage::Baggage, mesh::SpiffeId, reason::Reason};

/// Which end of the tunnel recorded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The node agent: the workload's connection.
    Agent,
    /// The egress gateway: what became of it.
    Gateway,
}

/// What was decided about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It goes directly, since its destination is not for the gateway: the kernel programs let it pass.
    Bypassed,
    /// It went through.
    Allowed,
    /// A policy or the registry refused it.
    Denied,
    /// It was allowed, and something broke.
    Failed,
}

impl Verdict {
    /// The verdict that a reason stands for.
    pub const fn of(reason: Reason) -> Self {
        match reason {
            Reason::Bypassed => Self::Bypassed,
            Reason::Completed | Reason::ClientGone => Self::Allowed,
            Reason::KernelRefused
            | Reason::PolicyDenied
            | Reason::NotRegistered
            | Reason::StaleAddress
            | Reason::NoRoute
            | Reason::TlsRequired => Self::Denied,
            Reason::NoDestination
            | Reason::NoEndpoint
            | Reason::Credential
            | Reason::UpstreamResolve
            | Reason::UpstreamConnect
            | Reason::UpstreamTls
            | Reason::UpstreamReset
            | Reason::UpstreamTimeout
            | Reason::BadRequest
            | Reason::GatewayUnreachable
            | Reason::GatewayRefused
            | Reason::IdentityUnavailable
            | Reason::OriginalDestinationMiss
            | Reason::Draining
            | Reason::Internal => Self::Failed,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bypassed => "bypassed",
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Failed => "failed",
        })
    }
}

/// A flow: one captured connection, as one side saw it; to the agent also a bypassed one, or a refused call, as the kernel told it.
///
/// `sent` and `received` are bytes of the application's stream, from the workload's view.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FlowRecord {
    /// Joins the two sides.
    pub id: FlowId,
    /// Which side this is.
    pub side: Side,
    /// When the connection was accepted.
    pub started: Timestamp,
    /// Milliseconds from accept to close; absent while it is open.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub duration_ms: Option<u64>,
    /// Microseconds from accept to close, or to now while it is open.
    #[serde(default)]
    pub elapsed_us: u64,
    /// Microseconds from accept to the first byte for the workload.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_byte_us: Option<u64>,
    /// The gateway, on a port that declares no protocol: microseconds it waited in vain for the workload to speak first.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub undetected_us: Option<u64>,
    /// The workload.
    pub workload: SpiffeId,
    /// Its pod, where it is one and the agent says it; of the namespace of its identity.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<Arc<str>>,
    /// The uid of the pod, as the API server has it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod_uid: Option<Arc<str>>,
    /// What the pod belongs to, such as the name of its Deployment: Istio's `source_workload`, where the agent says it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub workload_name: Option<Arc<str>>,
    /// Who opened it; the agent knows, where its kernel tells.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub process: Option<Arc<Process>>,
    /// The address it dialled; `[::]:0` of a refused call that names none.
    pub original_destination: SocketAddr,
    /// `http`, `tls`, `tcp`; absent until known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub protocol: Option<Arc<str>>,
    /// Host of the last request, or server name of the TLS connection.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host: Option<Arc<str>>,
    /// Decision on the worst of its requests.
    pub verdict: Verdict,
    /// Why the flow, or the worst of its requests, ended as it did.
    pub reason: Reason,
    /// The sentence behind `reason`, and the object or rule that decided.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<Arc<str>>,
    /// Last upstream cluster, such as `outbound|443||test.com`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub upstream_cluster: Option<Arc<str>>,
    /// Last upstream endpoint.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub upstream_host: Option<SocketAddr>,
    /// HTTP requests carried.
    pub requests: u64,
    /// How often the same call was made; of one that the kernel programs refused.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attempts: Option<u64>,
    /// Bytes from the workload.
    pub sent: u64,
    /// Bytes to the workload.
    pub received: u64,
    /// The objects behind the verdict; the gateway knows them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub decided_by: Option<Arc<DecidedBy>>,
    /// Each leg of it.
    #[serde(default)]
    pub legs: Legs,
    /// Whom it waited for.
    #[serde(default)]
    pub waits: Waits,
}

impl FlowRecord {
    /// Notes which workload's flow it is.
    pub fn describe(&mut self, baggage: &Baggage) {
        self.workload_name = baggage.workload().cloned();
        if let Some(pod) = &baggage.pod {
            self.pod = Some(Arc::clone(&pod.name));
            self.pod_uid = Some(Arc::clone(&pod.uid));
        }
    }

    /// When it ended; absent while it is open.
    pub fn ended(&self) -> Option<Timestamp> {
        let elapsed = SignedDuration::from_micros(i64::try_from(self.elapsed_us).ok()?);
        self.duration_ms.map(|_| self.started + elapsed)
    }
}
