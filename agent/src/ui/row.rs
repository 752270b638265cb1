//! A flow as the table of the page has it: much less than all that is known of it.

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    flow::{DecidedBy, FlowId, Leg, TimeSpent, Verdict},
    reason::Reason,
    survey::flows::PlacedFlow,
};

/// A row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Its id.
    pub id: FlowId,
    /// When it began.
    pub started: Timestamp,
    /// How long it took; absent while it is open.
    pub duration_ms: Option<u64>,
    /// Namespace of the workload.
    pub namespace: String,
    /// Its service account.
    pub service_account: String,
    /// Its pod.
    pub pod: Option<String>,
    /// Its node.
    pub node: Option<String>,
    /// The gateway's pod.
    pub gateway: Option<String>,
    /// The address it dialled.
    pub destination: String,
    /// The host.
    pub host: Option<String>,
    /// What came of it.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The sentence behind that.
    pub detail: Option<String>,
    /// The upstream cluster.
    pub upstream: Option<String>,
    /// The endpoint.
    pub endpoint: Option<String>,
    /// HTTP requests.
    pub requests: u64,
    /// Bytes from the workload.
    pub sent: u64,
    /// Bytes to the workload.
    pub received: u64,
    /// The leg that took most of the time.
    pub slowest: Option<Leg>,
    /// Where the time went.
    pub time: TimeSpent,
    /// The objects behind the verdict.
    pub decided_by: Vec<String>,
}

impl From<&PlacedFlow> for Row {
    fn from(flow: &PlacedFlow) -> Self {
        let PlacedFlow { joined, node, gateway_pod, .. } = flow;
        let record = &joined.flow;
        let text = |text: &Option<std::sync::Arc<str>>| text.as_deref().map(str::to_owned);
        Self {
            id: record.id,
            started: record.started,
            duration_ms: record.duration_ms,
            namespace: record.workload.namespace().to_owned(),
            service_account: record.workload.service_account().to_owned(),
            pod: text(&record.pod),
            node: node.clone(),
            gateway: gateway_pod.clone(),
            destination: record.original_destination.to_string(),
            host: text(&record.host),
            verdict: record.verdict,
            reason: record.reason,
            detail: text(&record.detail),
            upstream: text(&record.upstream_cluster),
            endpoint: record.upstream_host.map(|endpoint| endpoint.to_string()),
            requests: record.requests,
            sent: record.sent,
            received: record.received,
            slowest: joined.time.slowest(),
            time: joined.time,
            decided_by: record.decided_by.as_deref().map(objects).unwrap_or_default(),
        }
    }
}

fn objects(by: &DecidedBy) -> Vec<String> {
    let DecidedBy { policy, mesh_route, gateway, gateway_route, service_entry, destination_rule } = by;
    let parts = [policy, mesh_route, gateway, gateway_route, service_entry, destination_rule];
    parts.into_iter().flatten().map(ToString::to_string).collect()
}
