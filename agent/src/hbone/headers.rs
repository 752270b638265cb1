//! What a CONNECT request says about the connection it carries.

use std::net::SocketAddr;

use crate::flow::FlowId;

/// The request of one tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// `:authority`: the original destination.
    pub original_destination: SocketAddr,
    /// `egret-flow-id`; foreign peers send none.
    pub flow_id: Option<FlowId>,
    /// W3C `traceparent`, passed on as it is.
    pub traceparent: Option<String>,
    /// `baggage` (ztunnel's workload description).
    pub baggage: Option<String>,
}
