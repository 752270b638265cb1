//! Maps of made-up flows.

use proptest::prelude::*;

use super::*;
use crate::flow::{FlowId, FlowTable, Side, join, testing};

/// A flow to a host that began so many seconds after the window did, lasted so long, and sent so many bytes.
fn flow(host: &str, start: i64, lasted: u64, sent: u64, verdict: Verdict) -> PlacedFlow {
    let table = FlowTable::new(Side::Agent, 1);
    drop(testing::full(&table, FlowId::random(), Some(host)));
    let mut flow = PlacedFlow::from(join(table.records(), Vec::new()).remove(0));
    let record = &mut flow.joined.flow;
    record.started = window().from + jiff::SignedDuration::from_secs(start);
    (record.elapsed_us, record.duration_ms) = (lasted * 1_000_000, Some(lasted * 1000));
    (record.sent, record.received, record.verdict) = (sent, 0, verdict);
    flow
}

fn window() -> Window {
    let from = Timestamp::UNIX_EPOCH;
    Window { from, to: from + jiff::SignedDuration::from_secs(60) }
}

fn close(found: f64, expected: f64) -> bool {
    (found - expected).abs() < 1e-6
}

#[test]
fn only_what_is_inside_the_window_counts() {
    let sent = |start, lasted| {
        map(&[flow("a", start, lasted, 6000, Verdict::Allowed)], window()).total.sent_bytes_per_second
    };
    assert!(close(sent(0, 60), 100.0));
    assert!(close(sent(10, 0), 100.0), "one that was over at once");
    assert!(close(sent(-60, 120), 50.0), "half of it was before");
    assert!(close(sent(-60, 240), 25.0), "before and after");
    assert!(close(sent(-60, 30), 0.0), "all of it was before");
    let empty = map(&[], window());
    assert_eq!((empty.total.flows, empty.columns[0].len(), empty.edges[0].len()), (0, 0, 0));
}

#[test]
fn a_flow_goes_from_namespace_to_host() {
    let mut lost = flow("b", 0, 1, 0, Verdict::Failed);
    lost.joined.flow.legs.tunnel = None;
    lost.joined.flow.host = None;
    let mut open = flow("a", 0, 1, 60, Verdict::Allowed);
    open.joined.flow.duration_ms = None;
    let flows = [open, flow("a", 0, 1, 0, Verdict::Denied), lost];
    let map = map(&flows, window());
    let names = |column: &[Place]| column.iter().map(|place| place.name.clone().unwrap()).collect::<Vec<_>>();
    assert_eq!(names(&map.columns[0]), ["default"]);
    assert_eq!(names(&map.columns[1]), ["default/sleep"]);
    assert_eq!(names(&map.columns[2]), ["127.0.0.1:15008", NO_GATEWAY]);
    assert_eq!(names(&map.columns[3]), ["203.0.113.7:443", "a"]);
    let last = &map.edges[2];
    assert_eq!(last.iter().map(|edge| (edge.from, edge.to)).collect::<Vec<_>>(), [(0, 1), (1, 0)]);
    let Traffic { flows, open, denied, failed, .. } = last[0].traffic;
    assert_eq!((flows, open, denied, failed), (2, 1, 1, 0));
    assert_eq!((last[1].traffic.flows, last[1].traffic.failed), (1, 1));
}

#[test]
fn made_up_hosts_do_not_push_out_those_with_traffic() {
    let denied = (0..500).map(|host| flow(&format!("bad-{host:03}"), 0, 1, 0, Verdict::Denied));
    let busy = (0..20).map(|host| flow(&format!("good-{host:02}"), 0, 1, 100 + host, Verdict::Allowed));
    let flows: Vec<_> = denied.chain(busy).collect();
    let map = map(&flows, window());
    let hosts = &map.columns[3];
    assert_eq!(hosts.len(), MOST + 1);
    let named = |begin: &str| {
        hosts.iter().filter(|place| place.name.as_ref().is_some_and(|name| name.starts_with(begin))).count()
    };
    assert_eq!((named("bad"), named("good")), (15, 15));
    let others = hosts.last().unwrap();
    assert_eq!((others.others, others.traffic.denied), (Some(490), 485));
    let to_others = map.edges[2].iter().find(|edge| edge.to == MOST).unwrap();
    assert_eq!(to_others.traffic.flows, 490);
}

proptest! {
    #[test]
    fn nothing_is_lost_on_the_way(hosts in prop::collection::vec((0_u32..80, -90_i64..90, 0_u64..90, 0_u64..100_000), 0..120)) {
        let flows: Vec<_> = hosts
            .into_iter()
            .map(|(host, start, lasted, sent)| flow(&host.to_string(), start, lasted, sent, Verdict::Allowed))
            .collect();
        let map = map(&flows, window());
        for column in &map.columns {
            prop_assert_eq!(column.iter().map(|place| place.traffic.flows).sum::<usize>(), flows.len());
        }
        for (index, edges) in map.edges.iter().enumerate() {
            prop_assert_eq!(edges.iter().map(|edge| edge.traffic.flows).sum::<usize>(), flows.len());
            let rate: f64 = edges.iter().map(|edge| edge.traffic.sent_bytes_per_second).sum();
            prop_assert!((rate - map.total.sent_bytes_per_second).abs() < 1e-3);
            for edge in edges {
                prop_assert!(edge.from < map.columns[index].len() && edge.to < map.columns[index + 1].len());
            }
        }
    }
}
