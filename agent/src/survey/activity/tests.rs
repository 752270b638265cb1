//! Answers one after the other, and what they add up to.

use proptest::prelude::*;

use super::*;
use crate::{
    flow::{DecidedBy, FlowTable, Part, Side, join},
    mesh::{Kind, ObjectRef},
    reason::Reason,
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).unwrap()
}

fn seconds(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

/// A record that is `age` seconds old, changed.
fn flow(id: FlowId, age: u64, change: impl FnOnce(&mut FlowRecord)) -> PlacedFlow {
    let table = FlowTable::new(Side::Agent, 1);
    let workload = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
    let live = table.open(id, workload, "203.0.113.7:80".parse().unwrap());
    let mut record = table.records().remove(0);
    drop(live);
    record.elapsed_us = age * 1_000_000;
    change(&mut record);
    PlacedFlow::from(join(vec![record], Vec::new()).remove(0))
}

fn ended(record: &mut FlowRecord) {
    record.duration_ms = Some(record.elapsed_us / 1000);
}

fn total(activity: &Activity) -> Row {
    activity.snapshot(GroupBy::Host, Rank::Flows).unwrap().total
}

#[test]
fn rates_are_the_differences_of_answers() {
    let mut activity = Activity::new(seconds(10), 99);
    assert!(activity.snapshot(GroupBy::Host, Rank::Flows).is_none());
    let (old, new) = (FlowId::random(), FlowId::random());
    activity.observe(at(0), vec![flow(old, 60, |flow| flow.sent = 5000)]);
    let first = activity.snapshot(GroupBy::Host, Rank::Flows).unwrap();
    assert_eq!((first.seconds, first.total.sent_per_second, first.total.open), (0.0, 0.0, 1));
    let answer = vec![
        flow(old, 64, |flow| flow.sent = 5400),
        flow(new, 1, |flow| (flow.sent, flow.received, flow.requests) = (40, 80, 2)),
    ];
    activity.observe(at(4), answer.clone());
    let row = total(&activity);
    assert_eq!((row.flows_per_second, row.requests_per_second), (0.25, 0.5));
    assert_eq!((row.sent_per_second, row.received_per_second, row.open), (110.0, 20.0, 2));
    activity.observe(at(8), answer);
    let row = total(&activity);
    assert_eq!((row.flows_per_second, row.sent_per_second), (0.125, 55.0), "over the whole window");
    activity.observe(at(14), Vec::new());
    assert!(total(&activity).sent_per_second < 0.001, "and then the window has left it behind");
}

#[test]
fn a_window_of_one_interval_never_overlaps_the_one_before() {
    let mut activity = Activity::new(seconds(2), 9);
    let late = [0, 15, -15, 10, -10, 0].map(SignedDuration::from_millis);
    let mut measured = 0.0;
    for (second, late) in (0..12).step_by(2).zip(late) {
        activity.observe(at(second) + late, Vec::new());
        measured += activity.snapshot(GroupBy::Host, Rank::Flows).unwrap().seconds;
    }
    assert!((measured - 10.0).abs() < 0.001, "{measured}");
}

#[test]
fn an_end_is_told_again_and_counted_once() {
    let mut activity = Activity::new(seconds(2), 99);
    let id = FlowId::random();
    let short = || {
        flow(id, 1, |flow| {
            (flow.sent, flow.first_byte_us) = (8, Some(700));
            ended(flow);
        })
    };
    activity.observe(at(0), Vec::new());
    let mut seen = (0.0, 0);
    for second in 1..9 {
        activity.observe(at(second), vec![short()]);
        let snapshot = activity.snapshot(GroupBy::Host, Rank::Flows).unwrap();
        seen.0 += snapshot.total.flows_per_second * snapshot.seconds;
        seen.1 += usize::from(snapshot.total.duration.is_some());
    }
    assert_eq!(seen, (2.0, 2), "in each of the two windows it is in");
    activity.observe(at(9), Vec::new());
    activity.observe(at(11), Vec::new());
    assert!(activity.flows.is_empty(), "what does not come again is forgotten");
}

#[test]
fn what_was_hidden_is_not_counted_as_if_it_moved_now() {
    let mut activity = Activity::new(seconds(10), 99);
    activity.observe(at(0), Vec::new());
    let old = flow(FlowId::random(), 60, |flow| {
        flow.sent = 5000;
        flow.verdict = Verdict::Denied;
    });
    activity.observe(at(2), vec![old]);
    let row = total(&activity);
    assert_eq!((row.flows_per_second, row.sent_per_second), (0.0, 0.0));
    assert_eq!(row.denied, 1, "but that it is denied is news: a filter may have hidden it until it was");
}

#[test]
fn denials_and_failures_count_when_they_happen() {
    let mut activity = Activity::new(seconds(2), 99);
    let id = FlowId::random();
    let with = |verdict| vec![flow(id, 60, |flow| flow.verdict = verdict)];
    let outcome = |activity: &Activity| (total(activity).denied, total(activity).failed);
    for (second, verdict, expected) in [
        (0, Verdict::Denied, (0, 0)),
        (2, Verdict::Denied, (0, 0)),
        (4, Verdict::Failed, (0, 1)),
        (6, Verdict::Failed, (0, 0)),
    ] {
        activity.observe(at(second), with(verdict));
        assert_eq!(outcome(&activity), expected, "after {second} s");
    }
}

#[test]
fn rows_are_hosts_workloads_or_rules() {
    let mut activity = Activity::new(seconds(10), 99);
    activity.observe(at(0), Vec::new());
    let policy = ObjectRef::new(Kind::AuthorizationPolicy, "shop", "deny");
    let denied = flow(FlowId::random(), 1, |flow| {
        flow.host = Some("api.test".into());
        (flow.verdict, flow.reason) = (Verdict::Denied, Reason::PolicyDenied);
        flow.decided_by = Some(std::sync::Arc::new(DecidedBy {
            policy: Some(Part::of(policy, "0")),
            ..DecidedBy::default()
        }));
        ended(flow);
    });
    let plain = flow(FlowId::random(), 1, |flow| (flow.sent, flow.first_byte_us) = (9, Some(5)));
    activity.observe(at(1), vec![denied, plain]);
    let names = |by, rank| {
        let rows = activity.snapshot(by, rank).unwrap().rows;
        rows.into_iter().map(|row| row.name).collect::<Vec<_>>()
    };
    assert_eq!(names(GroupBy::Host, Rank::Name), ["203.0.113.7:80", "api.test"]);
    assert_eq!(names(GroupBy::Host, Rank::Refused), ["api.test", "203.0.113.7:80"]);
    assert_eq!(names(GroupBy::Host, Rank::Duration), ["api.test", "203.0.113.7:80"]);
    assert_eq!(names(GroupBy::Host, Rank::Bytes), ["203.0.113.7:80", "api.test"]);
    assert_eq!(names(GroupBy::Host, Rank::FirstByte), ["203.0.113.7:80", "api.test"]);
    assert_eq!(names(GroupBy::Workload, Rank::Flows), ["default/sleep"]);
    let rule = "policy_denied by AuthorizationPolicy shop/deny [0]";
    assert_eq!(names(GroupBy::Rule, Rank::Name), ["completed", rule]);
    let flows = activity.flows(GroupBy::Rule, rule);
    assert_eq!((flows.len(), flows[0].joined.flow.host.as_deref()), (1, Some("api.test")));
    let mut snapshot = activity.snapshot(GroupBy::Rule, Rank::Name).unwrap();
    snapshot.cut(1);
    assert_eq!((snapshot.rows.len(), snapshot.rows_left_out), (1, 1));
}

#[test]
fn more_flows_than_are_remembered_are_told_of() {
    let mut activity = Activity::new(seconds(10), 2);
    activity.observe(at(0), Vec::new());
    let young = |started| {
        flow(FlowId::random(), 0, |flow| {
            flow.started = at(started);
            flow.host = Some(format!("host-{started}").into());
        })
    };
    activity.observe(at(1), [4, 1, 3, 2].map(young).to_vec());
    let snapshot = activity.snapshot(GroupBy::Host, Rank::Name).unwrap();
    let names: Vec<_> = snapshot.rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!((names, snapshot.flows_left_out), (vec!["host-3", "host-4"], 2));
    activity.observe(at(2), [5].map(young).to_vec());
    assert_eq!((activity.flows.len(), activity.left_out), (2, 1), "the answer before counts, too");
    activity.observe(at(3), Vec::new());
    assert_eq!(activity.left_out, 0);
}

#[test]
fn percentiles_are_times_that_were_taken() {
    assert_eq!(Latency::of(Vec::new()), None);
    assert_eq!(Latency::of(vec![7]), Some(Latency { p50_us: 7, p95_us: 7 }));
    assert_eq!(Latency::of((1..=100).rev().collect()), Some(Latency { p50_us: 50, p95_us: 95 }));
    assert_eq!(Latency::of((1..=19).collect()), Some(Latency { p50_us: 10, p95_us: 19 }));
}

proptest! {
    #[test]
    fn percentiles_have_their_share_below_them(times in prop::collection::vec(0..50_u64, 1..60)) {
        let latency = Latency::of(times.clone()).unwrap();
        for (value, percent) in [(latency.p50_us, 50), (latency.p95_us, 95)] {
            let no_longer = times.iter().filter(|time| **time <= value).count();
            let shorter = times.iter().filter(|time| **time < value).count();
            prop_assert!(no_longer * 100 >= times.len() * percent);
            prop_assert!(shorter * 100 < times.len() * percent);
        }
    }

    /// Steps of each flow: in which answer it begins, and how many bytes it moves from answer to answer.
    #[test]
    fn every_byte_is_counted_once_whatever_the_rows_are(
        made in prop::collection::vec((0..6_usize, prop::collection::vec(0..1000_u64, 1..8), 0..3_u8), 1..12),
        capacity in prop::option::of(1..12_usize),
    ) {
        let mut activity = Activity::new(seconds(1000), capacity.unwrap_or(usize::MAX));
        let ids: Vec<_> = made.iter().map(|_| FlowId::random()).collect();
        let mut expected = 0;
        for answer in 0..14 {
            let mut flows = Vec::new();
            for ((begin, steps, host), id) in made.iter().zip(&ids) {
                // It is told of once more after its end, as answers overlap.
                let Some(step) = usize::checked_sub(answer, *begin).filter(|step| *step <= steps.len()) else { continue };
                let moved = &steps[..=step.min(steps.len() - 1)];
                if answer > 0 && step < steps.len() {
                    expected += steps[step];
                }
                flows.push(flow(*id, step as u64, |record| {
                    record.sent = moved.iter().sum();
                    record.host = Some(format!("host-{host}").into());
                    if step + 1 >= steps.len() {
                        ended(record);
                    }
                }));
            }
            activity.observe(at(i64::try_from(answer).unwrap()), flows);
            prop_assert!(activity.flows.len() <= activity.capacity);
        }
        let bytes = |row: &Row| row.sent_per_second * 13.0;
        for by in [GroupBy::Host, GroupBy::Workload, GroupBy::Rule] {
            let snapshot = activity.snapshot(by, Rank::Bytes).unwrap();
            let rows: f64 = snapshot.rows.iter().map(bytes).sum();
            prop_assert!((rows - bytes(&snapshot.total)).abs() < 0.1);
            if capacity.is_none() {
                prop_assert!((rows - expected as f64).abs() < 0.1, "{rows} of {expected}");
                let of_rows: usize = snapshot.rows.iter().map(|row| activity.flows(by, &row.name).len()).sum();
                let counted = made.iter().filter(|(begin, steps, _)| *begin + steps.len() > 1);
                prop_assert_eq!(of_rows, counted.count());
            }
        }
    }
}
