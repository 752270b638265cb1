//! The flows of all agents and gateways, joined by their ids.

use std::collections::HashMap;

use serde::Serialize;

use super::Answer;
use crate::flow::{self, FlowId, FlowRecord, JoinedFlow};

/// A flow with who recorded it: the JSON of `egret flows -o json`. On one machine there is no more to say than that it is joined.
#[derive(Clone, Debug, Serialize)]
pub struct PlacedFlow {
    /// The flow.
    #[serde(flatten)]
    pub joined: JoinedFlow,
    /// The node of the workload; absent: its agent did not say, so its node is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The agent's pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_pod: Option<String>,
    /// The gateway's pod; absent: no gateway has this flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_pod: Option<String>,
}

impl From<JoinedFlow> for PlacedFlow {
    fn from(joined: JoinedFlow) -> Self {
        Self { joined, node: None, agent_pod: None, gateway_pod: None }
    }
}

/// Joins what everyone said who answered, oldest flow first.
pub fn join(agents: Vec<Answer<Vec<FlowRecord>>>, gateways: Vec<Answer<Vec<FlowRecord>>>) -> Vec<PlacedFlow> {
    let (agent_records, agent_of) = collect(agents);
    let (gateway_records, gateway_of) = collect(gateways);
    let joined = flow::join(agent_records, gateway_records);
    let placed = joined.into_iter().map(|joined| {
        let place = |places: &HashMap<FlowId, Place>| places.get(&joined.flow.id).cloned();
        let (agent, gateway) = (place(&agent_of), place(&gateway_of));
        PlacedFlow {
            node: agent.as_ref().and_then(|(_, node)| node.clone()),
            agent_pod: agent.map(|(pod, _)| pod),
            gateway_pod: gateway.map(|(pod, _)| pod),
            joined,
        }
    });
    placed.collect()
}

/// Pod and node.
type Place = (String, Option<String>);

/// All records, each id once. Two agents' pods of a node, one of which takes over from the other, tell the same; of several
/// gateways that were tried for a flow, the last one counts.
fn collect(answers: Vec<Answer<Vec<FlowRecord>>>) -> (Vec<FlowRecord>, HashMap<FlowId, Place>) {
    let mut records: HashMap<FlowId, FlowRecord> = HashMap::new();
    let mut places = HashMap::new();
    for Answer { pod, said } in answers {
        for record in said.unwrap_or_default() {
            let id = record.id;
            if records.get(&id).is_some_and(|known| known.started >= record.started) {
                continue;
            }
            places.insert(id, (pod.name.clone(), pod.node.clone()));
            records.insert(id, record);
        }
    }
    (records.into_values().collect(), places)
}

#[cfg(test)]
mod tests {
    use super::{super::testing::pod, join};
    use crate::{
        flow::{FlowId, FlowTable, Side},
        survey::{Answer, Role},
    };

    #[test]
    fn flows_are_joined_across_pods_and_placed() {
        let tables = || (FlowTable::new(Side::Agent, 9), FlowTable::new(Side::Gateway, 9));
        let ((one, first), (two, second)) = (tables(), tables());
        let workload: crate::mesh::SpiffeId = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
        let destination = "203.0.113.7:80".parse().unwrap();
        let [near, far, lost] = [(); 3].map(|()| FlowId::random());
        let open = |table: &FlowTable, id| drop(table.open(id, workload.clone(), destination));
        open(&one, near);
        open(&second, near);
        open(&two, far);
        open(&first, far);
        open(&first, lost);
        let agent = |name, node, table: &FlowTable| Answer {
            pod: pod(Role::Agent, name, node),
            said: Ok(table.records()),
        };
        let gateway = |name, table: &FlowTable| Answer {
            pod: pod(Role::Gateway, name, "node-1"),
            said: Ok(table.records()),
        };
        let dead = Answer { pod: pod(Role::Agent, "agent-3", "node-3"), said: Err("no answer".to_owned()) };
        let flows = join(
            // The second agent of node-1 is about to take over: it tells what the first one tells.
            vec![
                agent("agent-1", "node-1", &one),
                agent("agent-1b", "node-1", &one),
                agent("agent-2", "node-2", &two),
                dead,
            ],
            vec![gateway("gateway-1", &first), gateway("gateway-2", &second)],
        );
        assert_eq!(flows.len(), 3);
        let found = |id| flows.iter().find(|flow| flow.joined.flow.id == id).unwrap();
        assert_eq!(
            (found(near).node.as_deref(), found(near).gateway_pod.as_deref()),
            (Some("node-1"), Some("gateway-2"))
        );
        assert_eq!(
            (found(far).agent_pod.as_deref(), found(far).gateway_pod.as_deref()),
            (Some("agent-2"), Some("gateway-1"))
        );
        assert_eq!((found(lost).node.as_deref(), found(lost).joined.gateway.is_some()), (None, true));
        let json = serde_json::to_value(found(near)).unwrap();
        assert_eq!((json["node"].as_str(), json["agent"]["side"].as_str()), (Some("node-1"), Some("agent")));
    }
}
