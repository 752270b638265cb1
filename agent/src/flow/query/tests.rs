//! What each side answers for, and queries as URLs.

use proptest::prelude::*;

use super::*;
use crate::{
    flow::{FlowTable, JoinedFlow, join},
    reason::Refusal,
};

#[test]
fn a_query_is_the_query_of_a_url() {
    let query = FlowQuery {
        namespace: Some("shop & co".to_owned()),
        host: Some(HostPattern::parse("*.example.com").unwrap()),
        verdict: Some(Verdict::Denied),
        reason: Some(Reason::PolicyDenied),
        min_bytes: Some(7),
        since: Some("2026-11-27T10:00:00.5Z".parse().unwrap()),
        ids: vec!["0a".parse().unwrap(), "ff0".parse().unwrap()],
        sort: Sort::Bytes,
        limit: Some(3),
        ..FlowQuery::default()
    };
    let text = serde_urlencoded::to_string(&query).unwrap();
    assert!(text.contains("namespace=shop+%26+co&host=*.example.com&verdict=denied"), "{text}");
    assert!(text.contains("ids=0a%2Cff0&sort=bytes&limit=3"), "{text}");
    assert_eq!(serde_urlencoded::from_str::<FlowQuery>(&text).unwrap(), query);
    assert_eq!(serde_urlencoded::from_str::<FlowQuery>("").unwrap(), FlowQuery::default());
    assert!(serde_urlencoded::from_str::<FlowQuery>("ids=x").is_err());
    assert!(serde_urlencoded::from_str::<FlowQuery>("verdict=maybe").is_err());
}

#[test]
fn a_limit_leaves_those_that_count_most() {
    let flows = FlowTable::new(Side::Agent, 9);
    for bytes in [5, 900, 20, 700] {
        open(&flows, FlowId::random()).add_sent(bytes);
    }
    let query = FlowQuery { sort: Sort::Bytes, limit: Some(2), ..FlowQuery::default() };
    let sent: Vec<_> = flows.select(&query).iter().map(|flow| flow.sent).collect();
    assert_eq!(sent, [900, 700], "in the order in which they began");
    let query = FlowQuery { limit: Some(2), ..FlowQuery::default() };
    let sent: Vec<_> = flows.select(&query).iter().map(|flow| flow.sent).collect();
    assert_eq!(sent, [20, 700]);
}

fn open(table: &FlowTable, id: FlowId) -> crate::flow::FlowHandle {
    let workload = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
    table.open(id, workload, "203.0.113.7:80".parse().unwrap())
}

/// What is recorded of one flow, on both sides.
#[derive(Clone, Debug)]
struct Made {
    pod: bool,
    tunnelled: bool,
    agent: Option<Reason>,
    gateway: Option<Reason>,
    host: Option<bool>,
    bytes: u64,
}

fn reason() -> impl Strategy<Value = Option<Reason>> {
    prop::option::of(prop::sample::select(vec![
        Reason::PolicyDenied,
        Reason::UpstreamReset,
        Reason::UpstreamConnect,
        Reason::ClientGone,
    ]))
}

fn made() -> impl Strategy<Value = Made> {
    (any::<bool>(), any::<bool>(), reason(), reason(), prop::option::of(any::<bool>()), 0..4_u64).prop_map(
        |(pod, tunnelled, agent, gateway, host, bytes)| Made { pod, tunnelled, agent, gateway, host, bytes },
    )
}

fn query() -> impl Strategy<Value = FlowQuery> {
    let host = prop::option::of(prop::sample::select(vec!["a.test", "*.test"]));
    let verdict =
        prop::option::of(prop::sample::select(vec![Verdict::Allowed, Verdict::Denied, Verdict::Failed]));
    (any::<bool>(), host, verdict, reason(), prop::option::of(0..4_u64)).prop_map(
        |(pod, host, verdict, reason, min_bytes)| FlowQuery {
            pod: pod.then(|| "pod-1".to_owned()),
            host: host.map(|host| HostPattern::parse(host).unwrap()),
            verdict,
            reason,
            min_bytes,
            ..FlowQuery::default()
        },
    )
}

fn record(table: &FlowTable, id: FlowId, made: &Made, reason: Option<Reason>, host: Option<&str>) {
    let flow = open(table, id);
    flow.add_sent(made.bytes);
    flow.update(|record| record.host = host.map(Into::into));
    if let Some(reason) = reason {
        flow.fail(&Refusal::new(reason, "x"));
    }
}

proptest! {
    /// Nothing that is asked for is left out by both sides: the other one's record is fetched by its id.
    #[test]
    fn one_side_or_the_other_answers_for_each_flow(made in prop::collection::vec(made(), 0..8), query in query()) {
        let (agent, gateway) = (FlowTable::new(Side::Agent, 99), FlowTable::new(Side::Gateway, 99));
        let tunnelled = crate::flow::testing::tunnel;
        for made in &made {
            let id = FlowId::random();
            {
                let flow = open(&agent, id);
                flow.add_sent(made.bytes);
                if made.pod {
                    flow.update(|record| record.pod = Some("pod-1".into()));
                }
                if made.tunnelled {
                    flow.update(|record| record.legs.tunnel = Some(Box::new(tunnelled(None))));
                }
                if let Some(reason) = made.agent {
                    flow.fail(&Refusal::new(reason, "x"));
                }
            }
            if made.tunnelled {
                let host = made.host.map(|a| if a { "a.test" } else { "b.test" });
                record(&gateway, id, made, made.gateway, host);
            }
        }
        let wanted: Vec<_> = join(agent.records(), gateway.records())
            .into_iter()
            .filter(|joined: &JoinedFlow| query.selects(&joined.flow))
            .map(|joined| joined.flow.id)
            .collect();
        let answered = |id| {
            [&agent, &gateway].into_iter().any(|table| table.select(&query).iter().any(|flow| flow.id == id))
        };
        for id in wanted {
            prop_assert!(answered(id), "{id}");
        }
    }
}
