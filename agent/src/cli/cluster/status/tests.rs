//! What people see of a made-up cluster.

use super::human;
use crate::survey::overview::{
    UncapturedRow, overview,
    tests::{end, well},
};

#[test]
fn a_cluster_that_is_well_fits_a_screen() {
    let asked = well();
    let text = human(&overview("istio-system", &asked), true, end(0));
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    assert_eq!(
        lines[..4],
        [
            "egret    namespace istio-system, trust domain cluster.local, unregistered hosts: ALLOW_ANY",
            "config   5 objects in force, none refused, 0 warnings",
            "ca       1 of 1 ready, root certificate ends in 365 days",
            "identity 2 certificates valid, the first ends in 10 hours",
        ],
        "{text}"
    );
    assert!(lines.iter().all(|line| line.chars().count() <= 100), "{text}");
    let words = |begin: &str| {
        let line = lines.iter().map(|line| line.trim()).find(|line| line.starts_with(begin)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(words("node-1"), "node-1 egret-agent-1 ready 0.1.0 1 ok 0");
    assert_eq!(words("istio-egressgateway-1"), "istio-egressgateway-1 node-1 ready 0.1.0 3 5 ?");
    assert!(words("default").ends_with("hold 0"), "{text}");
    assert!(!text.contains("PROBLEMS ("), "{text}");
}

#[test]
fn what_is_wrong_is_loud_and_fits_too() {
    let mut asked = well();
    asked.agents.remove(1);
    asked.agents[0].said = Err("nothing came ".repeat(20));
    let mut overview = overview("istio-system", &asked);
    let row = UncapturedRow {
        namespace: "default".to_owned(),
        pod: "sleep".to_owned(),
        node: "node-2".to_owned(),
        why: "no agent is on its node".to_owned(),
    };
    overview.uncaptured = vec![row; 25];
    let text = human(&overview, false, end(0));
    for part in
        ["NO AGENT", "SILENT", "PROBLEMS (2)", "  error    node node-1: ", "NOT CAPTURED (25)", "and 5 more"]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(text.lines().all(|line| line.trim_end().chars().count() <= 100), "{text}");
}
