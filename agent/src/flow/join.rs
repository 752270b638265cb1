//! Joins the records that agent and gateway keep of the same connection.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::{FlowId, FlowRecord, TimeSpent, Verdict};

/// A flow as both sides saw it: the JSON of `egret flows -o json`.
///
/// The flat fields are the joined view; bytes and times are the agent's where it has the flow, since it stands next to the
/// workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinedFlow {
    /// The joined view.
    #[serde(flatten)]
    pub flow: FlowRecord,
    /// What the agent recorded.
    pub agent: Option<FlowRecord>,
    /// What the gateway recorded.
    pub gateway: Option<FlowRecord>,
    /// Where its time went.
    pub time: TimeSpent,
}

impl JoinedFlow {
    fn new(agent: Option<FlowRecord>, gateway: Option<FlowRecord>) -> Option<Self> {
        let flow = match (&agent, &gateway) {
            (Some(agent), gateway) => view(agent, gateway.as_ref()),
            (None, Some(gateway)) => gateway.clone(),
            (None, None) => return None,
        };
        let time = TimeSpent::of(agent.as_ref(), gateway.as_ref());
        Some(Self { flow, agent, gateway, time })
    }
}

/// Joins both sides, oldest flow first.
pub fn join(agent: Vec<FlowRecord>, gateway: Vec<FlowRecord>) -> Vec<JoinedFlow> {
    let mut gateway: HashMap<FlowId, FlowRecord> =
        gateway.into_iter().map(|record| (record.id, record)).collect();
    let mut flows: Vec<_> = agent
        .into_iter()
        .filter_map(|agent| {
            let gateway = gateway.remove(&agent.id);
            JoinedFlow::new(Some(agent), gateway)
        })
        .collect();
    flows.extend(gateway.into_values().filter_map(|gateway| JoinedFlow::new(None, Some(gateway))));
    flows.sort_by_key(|joined| joined.flow.started);
    flows
}

fn view(agent: &FlowRecord, gateway: Option<&FlowRecord>) -> FlowRecord {
    let mut view = agent.clone();
    let Some(gateway) = gateway else { return view };
    if view.workload_name.is_none() {
        view.workload_name.clone_from(&gateway.workload_name);
    }
    view.protocol.clone_from(&gateway.protocol);
    view.host = gateway.host.clone().or(view.host);
    view.upstream_cluster.clone_from(&gateway.upstream_cluster);
    view.upstream_host = gateway.upstream_host;
    view.requests = gateway.requests;
    view.decided_by.clone_from(&gateway.decided_by);
    view.undetected_us = gateway.undetected_us;
    view.legs.upstream.clone_from(&gateway.legs.upstream);
    // The gateway knows why it refused or what failed; of that the agent sees a tunnel that was reset.
    if gateway.verdict != Verdict::Allowed || agent.verdict == Verdict::Allowed {
        view.verdict = gateway.verdict;
        view.reason = gateway.reason;
        view.detail.clone_from(&gateway.detail);
    }
    view
}

#[cfg(test)]
mod tests {
    use super::join;
    use crate::{
        flow::{FlowId, FlowTable, Side, Verdict},
        reason::{Reason, Refusal},
    };

    #[test]
    fn the_gateway_says_what_became_of_it_and_the_agent_how_much() {
        let (agent, gateway) = (FlowTable::new(Side::Agent, 9), FlowTable::new(Side::Gateway, 9));
        let workload: crate::mesh::SpiffeId = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
        let destination = "203.0.113.7:80".parse().unwrap();
        let (both, lost) = (FlowId::random(), FlowId::random());
        let near = agent.open(both, workload.clone(), destination);
        near.add_sent(100);
        let far = gateway.open(both, workload.clone(), destination);
        far.update(|record| record.host = Some("test.com".into()));
        far.fail(&Refusal::new(Reason::PolicyDenied, "rule 0"));
        agent.open(lost, workload, destination).fail(&Refusal::new(Reason::GatewayUnreachable, "down"));

        let flows = join(agent.records(), gateway.records());
        assert_eq!(flows.len(), 2);
        let joined = flows.iter().find(|joined| joined.flow.id == both).unwrap();
        assert_eq!((joined.flow.verdict, joined.flow.sent), (Verdict::Denied, 100));
        assert_eq!(joined.flow.host.as_deref(), Some("test.com"));
        let alone = flows.iter().find(|joined| joined.flow.id == lost).unwrap();
        assert_eq!(alone.flow.reason, Reason::GatewayUnreachable);
        assert!(alone.gateway.is_none());
    }

    #[test]
    fn a_tunnel_that_the_gateway_reset_has_the_gateways_reason() {
        let (agent, gateway) = (FlowTable::new(Side::Agent, 9), FlowTable::new(Side::Gateway, 9));
        let workload: crate::mesh::SpiffeId = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
        let destination = "203.0.113.7:5432".parse().unwrap();
        for (near, far, shown) in [
            (Some(Reason::UpstreamReset), Some(Reason::PolicyDenied), Reason::PolicyDenied),
            (Some(Reason::GatewayRefused), Some(Reason::NotRegistered), Reason::NotRegistered),
            (Some(Reason::UpstreamReset), None, Reason::UpstreamReset),
            (None, None, Reason::Completed),
        ] {
            let id = FlowId::random();
            for (table, reason) in [(&agent, near), (&gateway, far)] {
                let flow = table.open(id, workload.clone(), destination);
                if let Some(reason) = reason {
                    flow.fail(&Refusal::new(reason, "x"));
                }
            }
            let flows = join(agent.records(), gateway.records());
            let joined = flows.iter().find(|joined| joined.flow.id == id).unwrap();
            assert_eq!((joined.flow.reason, joined.flow.verdict), (shown, Verdict::of(shown)));
        }
    }
}
