//! Which rules and other objects decided flows, and how often: the policies of `egret ui`.
//!
//! Pure. A flow counts once for every object behind its verdict; one with several requests has those of the last. A refusal that no
//! policy made (an unregistered host, a gateway that is down) counts where no object stands.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::flows::PlacedFlow;
use crate::{
    flow::{DecidedBy, Verdict},
    mesh::ObjectRef,
    reason::Reason,
};

/// What an object has to say about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Says {
    /// Whether it is allowed.
    Authorization,
    /// It was refused, and no policy did it.
    NoPolicy,
    /// What is sent to the egress gateway.
    MeshRoute,
    /// What the egress gateway takes.
    Gateway,
    /// Where it goes from there.
    GatewayRoute,
    /// Which hosts there are.
    ServiceEntry,
    /// How the server is reached.
    DestinationRule,
}

/// An object or a part of it, with the flows that it decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hits {
    /// About what.
    pub says: Says,
    /// The object.
    pub object: Option<ObjectRef>,
    /// The name or index of its route, or the index of its rule.
    pub part: Option<String>,
    /// Flows.
    pub flows: u64,
    /// Those that went through.
    pub allowed: u64,
    /// Those that were denied.
    pub denied: u64,
    /// Those that were allowed, and broke.
    pub failed: u64,
    /// HTTP requests that they carried.
    pub requests: u64,
    /// Bytes, both ways together.
    pub bytes: u64,
    /// When the newest of them began.
    pub last: Timestamp,
    /// Reasons other than that all went well, with how many flows ended for each.
    pub reasons: BTreeMap<String, u64>,
}

/// What a row is of: an object or a part of it, or a reason where no object stands.
type Key<'a> = (Says, Option<ObjectRef>, Option<String>, Option<&'a str>);

/// Counts; by what the objects say, those with most flows first.
pub fn hits(flows: &[PlacedFlow]) -> Vec<Hits> {
    let mut rows: BTreeMap<Key<'_>, Hits> = BTreeMap::new();
    for flow in flows {
        let record = &flow.joined.flow;
        let decided = record.decided_by.as_deref().map(objects).unwrap_or_default();
        let by_policy = decided.iter().any(|(says, ..)| *says == Says::Authorization);
        let refused = matches!(record.verdict, Verdict::Denied | Verdict::Failed) && !by_policy;
        let reason = record.reason.as_str();
        let keys = decided
            .into_iter()
            .map(|(says, object, part)| (says, Some(object), part, None))
            .chain(refused.then_some((Says::NoPolicy, None, None, Some(reason))));
        for key in keys {
            let (says, object, part, _) = key.clone();
            let row = rows.entry(key).or_insert_with(|| Hits {
                says,
                object,
                part,
                flows: 0,
                allowed: 0,
                denied: 0,
                failed: 0,
                requests: 0,
                bytes: 0,
                last: record.started,
                reasons: BTreeMap::new(),
            });
            row.flows += 1;
            match record.verdict {
                // Of a bypassed one no object says anything.
                Verdict::Allowed | Verdict::Bypassed => row.allowed += 1,
                Verdict::Denied => row.denied += 1,
                Verdict::Failed => row.failed += 1,
            }
            row.requests += record.requests;
            row.bytes += record.sent + record.received;
            row.last = row.last.max(record.started);
            if record.reason != Reason::Completed {
                *row.reasons.entry(reason.to_owned()).or_default() += 1;
            }
        }
    }
    let mut rows: Vec<_> = rows.into_values().collect();
    rows.sort_by_key(|row| (row.says, std::cmp::Reverse(row.flows)));
    rows
}

fn objects(by: &DecidedBy) -> Vec<(Says, ObjectRef, Option<String>)> {
    let DecidedBy { policy, mesh_route, gateway, gateway_route, service_entry, destination_rule } = by;
    [
        (Says::Authorization, policy),
        (Says::MeshRoute, mesh_route),
        (Says::Gateway, gateway),
        (Says::GatewayRoute, gateway_route),
        (Says::ServiceEntry, service_entry),
        (Says::DestinationRule, destination_rule),
    ]
    .into_iter()
    .filter_map(|(says, part)| {
        let part = part.as_ref()?;
        Some((says, part.object.clone(), part.part.as_deref().map(str::to_owned)))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        flow::{FlowId, FlowTable, Part, Side, join, testing},
        mesh::Kind,
    };

    fn flow(reason: Reason, decided_by: Option<DecidedBy>) -> PlacedFlow {
        let table = FlowTable::new(Side::Agent, 1);
        drop(testing::full(&table, FlowId::random(), Some("test.com")));
        let mut flow = PlacedFlow::from(join(table.records(), Vec::new()).remove(0));
        let record = &mut flow.joined.flow;
        (record.reason, record.verdict) = (reason, Verdict::of(reason));
        record.decided_by = decided_by.map(std::sync::Arc::new);
        flow
    }

    #[test]
    fn each_object_counts_the_flows_it_decided() {
        let rule = |rule: &str| {
            Some(Part::of(ObjectRef::new(Kind::AuthorizationPolicy, "istio-system", "test"), rule))
        };
        let entry = Some(Part::whole(ObjectRef::new(Kind::ServiceEntry, "default", "test-com")));
        let by = |policy, service_entry| Some(DecidedBy { policy, service_entry, ..DecidedBy::default() });
        let rows = hits(&[
            flow(Reason::PolicyDenied, by(rule("0"), entry.clone())),
            flow(Reason::PolicyDenied, by(rule("0"), entry.clone())),
            flow(Reason::Completed, by(rule("1"), entry.clone())),
            flow(Reason::UpstreamConnect, by(None, entry)),
            flow(Reason::NotRegistered, None),
        ]);
        let told: Vec<_> = rows
            .iter()
            .map(|row| (row.says, row.part.as_deref(), [row.flows, row.allowed, row.denied, row.failed]))
            .collect();
        assert_eq!(
            told,
            [
                (Says::Authorization, Some("0"), [2, 0, 2, 0]),
                (Says::Authorization, Some("1"), [1, 1, 0, 0]),
                (Says::NoPolicy, None, [1, 0, 1, 0]),
                (Says::NoPolicy, None, [1, 0, 0, 1]),
                (Says::ServiceEntry, None, [4, 1, 2, 1]),
            ]
        );
        assert_eq!(rows[0].reasons, BTreeMap::from([("policy_denied".to_owned(), 2)]));
        assert_eq!((rows[1].reasons.len(), rows[4].bytes), (0, 400));
        assert_eq!(hits(&[]), []);
    }
}
