//! What is exposed, and that rules and dashboards in `deploy/observability` speak of nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use agent_common::Decision;
use jiff::Timestamp;
use regex::Regex;
use serde_json::Value;

use super::{agent, authority, certificates, configuration, issued, role};
use crate::{
    admin::{AgentStatus, GatewayStatus, Ready, RoleStatus, Stage, WorkloadStatus},
    gateway::testing::busy,
    hbone::{baggage::Baggage, client::GatewayState},
    kubernetes::standing::Standing,
    net::endpoints::Condition,
    node::{
        locks::{Lock, Locks},
        pods::{Pod, Said, Verdicts, Wish},
        sockets::{Existing, SocketStatus},
        workload::{Origin, Workload},
    },
    reason::Reason,
    telemetry::metrics::{
        exposition::{Format, render},
        page::Page,
    },
    tls::store::CertificateStatus,
};

/// Labels of targets, which Prometheus adds.
const OF_TARGETS: [&str; 6] = ["job", "instance", "node", "namespace", "pod", "container"];

fn ready() -> Ready {
    Ready { ready: false, pid: 1, stage: Stage::Starting, problems: vec!["keys: not there yet".to_owned()] }
}

fn valid() -> CertificateStatus {
    let identity = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
    let end = Timestamp::now() + jiff::SignedDuration::from_hours(20);
    CertificateStatus { valid: 1, first_to_end: Some((identity, end)), ..CertificateStatus::default() }
}

fn agent_status() -> AgentStatus {
    let workload = WorkloadStatus {
        workload: Workload {
            id: 1,
            identity: "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap(),
            cgroup: "/kubepods/pod".into(),
            cgroup_inode: 1,
            namespace: None,
            origin: Origin::Binding("shop/backup".to_owned()),
            existing: Existing::default(),
        },
        networks: Vec::new(),
        locks: Locks {
            capture: Lock::Holds,
            backstop: Lock::Closed,
            link: Lock::Open("host network".to_owned()),
        },
        sockets: SocketStatus { older: 2, foreign: 1, ..SocketStatus::default() },
    };
    let gateway = |last: u8, problem: Option<&str>| GatewayState {
        address: ([10, 0, 0, last], 15008).into(),
        condition: Condition::Ready,
        problem: problem.map(str::to_owned),
        connections: 3,
    };
    let counters =
        [("escaped", 0), ("agent_accepted", 7), ("agent_refused", 2), ("captured", 9), ("hops", 4)];
    AgentStatus {
        pid: 1,
        stage: Stage::Serving,
        role: RoleStatus::default(),
        gateways: vec![gateway(1, None), gateway(2, Some("connection refused"))],
        workloads: vec![workload],
        binding_problems: Vec::new(),
        guards: BTreeMap::new(),
        ranges: None,
        counters: counters.map(|(name, count)| (name.to_owned(), count)).into(),
    }
}

fn verdicts() -> Verdicts {
    let pod = Pod {
        namespace: "shop".to_owned(),
        name: "cart".to_owned(),
        uid: "u".to_owned(),
        cgroup: "u".to_owned(),
        service_account: "cart".to_owned(),
        wish: Wish::Enrolled,
        odd: None,
        runs: true,
        ended: false,
        baggage: Baggage::default(),
        condition: None,
    };
    let said = Said { holds: false, reason: "CannotCapture".to_owned(), message: "no".to_owned() };
    [((pod.namespace.clone(), pod.name.clone()), (pod, said))].into()
}

/// Everything that any role exposes.
fn everything() -> String {
    let mut page = Page::default();
    let standing = Standing::default();
    standing.expect("pods");
    role(&mut page, "agent", &ready(), Some(&standing));
    certificates(&mut page, "agent", &valid());
    agent(&mut page, &agent_status(), [(Reason::GatewayUnreachable, 2)], Some(&verdicts()));
    let agent = render(page.registry(), Format::Text);
    let mut page = Page::default();
    let status = GatewayStatus {
        pid: 1,
        role: RoleStatus::default(),
        trust_domain: "cluster.local".to_owned(),
        outbound_traffic_policy: "ALLOW_ANY".to_owned(),
        on_agent_down: "REFUSE".to_owned(),
        config_version: 3,
        report: std::sync::Arc::default(),
    };
    configuration(&mut page, &status);
    busy().write_metrics(&mut page);
    let gateway = render(page.registry(), Format::Text);
    let mut page = Page::default();
    authority(&mut page, std::time::SystemTime::UNIX_EPOCH);
    issued(&mut page, [("issued".to_owned(), 1)].into());
    page.gauges("egret_role_up", "Of egret up", [(vec![("component", "ca".to_owned())], 1.0)]);
    [agent, gateway, render(page.registry(), Format::Text)].concat()
}

/// Metrics by name, with their labels.
fn exposed() -> BTreeMap<String, BTreeSet<String>> {
    let (sample, label) = (Regex::new(r"^(\w+)(?:\{(.*)\})? ").unwrap(), Regex::new(r#"(\w+)=""#).unwrap());
    let mut found = BTreeMap::<String, BTreeSet<String>>::new();
    for line in everything().lines().filter(|line| !line.starts_with('#')) {
        let parts = sample.captures(line).unwrap_or_else(|| panic!("{line}"));
        let labels = parts.get(2).map_or("", |labels| labels.as_str());
        let labels = label.captures_iter(labels).map(|label| label[1].to_owned());
        found.entry(parts[1].to_owned()).or_default().extend(labels);
    }
    found
}

fn observability() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/observability")
}

fn rules() -> Vec<Value> {
    let text = fs::read_to_string(observability().join("rules.yaml")).unwrap();
    let rules: Value = serde_saphyr::from_str(&text).unwrap();
    let groups = rules["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// Every string under one of `keys`, however deep.
fn texts<'v>(value: &'v Value, keys: &[&str], found: &mut Vec<&'v str>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if keys.contains(&key.as_str()) => found.push(text),
                    _ => texts(value, keys, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| texts(value, keys, found)),
        _ => {}
    }
}

fn dashboards() -> Vec<(String, Value)> {
    let files = fs::read_dir(observability().join("dashboards")).unwrap();
    let read = files.map(|file| {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        (path.display().to_string(), serde_json::from_str(&text).unwrap())
    });
    read.collect()
}

#[tokio::test]
async fn numbers_come_out_as_they_are() {
    let text = everything();
    for line in [
        "egret_ready{component=\"agent\"} 0.0",
        "egret_api_read{component=\"agent\"} 0.0",
        "egret_escaped_total 0",
        "egret_agent_connections_total 7",
        "egret_agent_refusals_total{verdict=\"failed\",reason=\"gateway_unreachable\"} 2",
        "egret_kernel_decisions_total{decision=\"captured\"} 9",
        "egret_agent_events_total{event=\"hops\"} 4",
        "egret_workloads{origin=\"binding\"} 1.0",
        "egret_workloads{origin=\"pod\"} 0.0",
        "egret_workloads_open{lock=\"link\"} 1.0",
        "egret_workload_sockets{kind=\"older\"} 2.0",
        "egret_gateway_reachable{gateway=\"10.0.0.1:15008\"} 1.0",
        "egret_gateway_reachable{gateway=\"10.0.0.2:15008\"} 0.0",
        "egret_pods{captured=\"false\",reason=\"CannotCapture\"} 1.0",
        "egret_certificates{component=\"agent\",state=\"valid\"} 1.0",
        "egret_config_version 3.0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(!text.contains("agent_refused"), "told by reason");
}

#[test]
fn no_more_gateways_than_the_bound_have_numbers_of_their_own() {
    let mut status = agent_status();
    let state = status.gateways[0].clone();
    status.gateways = (0..1_000)
        .map(|port| GatewayState { address: ([10, 0, 0, 1], port).into(), ..state.clone() })
        .collect();
    let mut page = Page::default();
    agent(&mut page, &status, [], None);
    let text = render(page.registry(), Format::Text);
    let connections: Vec<_> =
        text.lines().filter(|line| line.starts_with("egret_gateway_connections{")).collect();
    assert_eq!(connections.len(), super::MOST_GATEWAYS + 1);
    let other = (1_000 - super::MOST_GATEWAYS) * 3;
    assert!(
        connections.contains(&format!("egret_gateway_connections{{gateway=\"other\"}} {other}.0").as_str())
    );
}

#[test]
fn decisions_of_the_kernel_are_not_taken_for_events() {
    let mut status = agent_status();
    status.counters = Decision::ALL.iter().map(|decision| (decision.name().to_owned(), 1)).collect();
    let mut page = Page::default();
    agent(&mut page, &status, [], None);
    let text = render(page.registry(), Format::Text);
    assert_eq!(text.matches("egret_kernel_decisions_total{").count(), Decision::ALL.len());
    assert!(!text.contains("egret_agent_events_total{"));
}

/// Names of metrics and labels in every query of rules and dashboards exist.
#[tokio::test]
async fn rules_and_dashboards_speak_of_what_is_exposed() {
    let mut known = exposed();
    let rules = rules();
    let names = Regex::new(r"\b(?:egret|istio)[_:][\w:]*").unwrap();
    let grouped = Regex::new(r"\b(?:by|on|without|ignoring|group_left|group_right) *\(([^)]*)\)").unwrap();
    let matched = Regex::new(r#"(\w+) *(?:=~|!~|!=|=) *""#).unwrap();
    let labels = |text: &str| -> BTreeSet<String> {
        let grouped = grouped
            .captures_iter(text)
            .flat_map(|found| found[1].split(',').map(|label| label.trim().to_owned()).collect::<Vec<_>>());
        let matched = matched.captures_iter(text).map(|found| found[1].to_owned());
        grouped.chain(matched).filter(|label| !label.is_empty()).collect()
    };
    for rule in &rules {
        if let Some(record) = rule["record"].as_str() {
            let by = grouped.captures(rule["expr"].as_str().unwrap()).unwrap();
            let labels = by[1].split(',').map(|label| label.trim().to_owned()).collect();
            assert!(known.insert(record.to_owned(), labels).is_none(), "{record} is there twice");
        }
    }
    let mut queries: Vec<(String, String)> = Vec::new();
    for rule in &rules {
        let name = rule["alert"].as_str().or(rule["record"].as_str()).unwrap();
        queries.push((name.to_owned(), rule["expr"].as_str().unwrap().to_owned()));
    }
    for (file, dashboard) in &dashboards() {
        let mut found = Vec::new();
        texts(dashboard, &["expr", "query", "definition"], &mut found);
        assert!(!found.is_empty(), "{file}");
        queries.extend(found.into_iter().map(|query| (file.clone(), query.to_owned())));
    }
    let variable = Regex::new(r"label_values\(([^,{]+)[^,]*, *(\w+)\)").unwrap();
    for (place, query) in queries {
        let used: Vec<&str> = names.find_iter(&query).map(|name| name.as_str()).collect();
        assert!(!used.is_empty() || query == "prometheus", "{place}: no metric in {query}");
        let mut possible: BTreeSet<&str> = OF_TARGETS.into();
        for name in used {
            let labels = known.get(name).unwrap_or_else(|| panic!("{place}: {name} is not exposed"));
            possible.extend(labels.iter().map(String::as_str));
        }
        let asked = variable.captures(&query).map(|found| found[2].to_owned());
        for label in labels(&query).into_iter().chain(asked) {
            assert!(possible.contains(label.as_str()), "{place}: no label {label} in what {query} asks for");
        }
    }
}

#[tokio::test]
async fn every_metric_is_documented() {
    let text = fs::read_to_string(observability().join("README.md")).unwrap();
    let words: BTreeSet<&str> = text.split('`').collect();
    for name in exposed().keys() {
        let family =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(words.contains(family), "{family} is not in deploy/observability/README.md");
    }
}

#[test]
fn every_alert_has_a_paragraph_in_the_runbook() {
    let runbook = fs::read_to_string(observability().join("RUNBOOK.md")).unwrap();
    let headings: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let mut alerts = BTreeSet::new();
    for rule in &rules() {
        let Some(alert) = rule["alert"].as_str() else { continue };
        let link = format!("RUNBOOK.md#{}", alert.to_ascii_lowercase());
        assert_eq!(rule["annotations"]["runbook"].as_str(), Some(link.as_str()));
        for annotation in ["summary", "description"] {
            assert!(rule["annotations"][annotation].is_string(), "{alert}: {annotation}");
        }
        assert!(rule["labels"]["severity"].is_string(), "{alert}: severity");
        alerts.insert(alert.to_owned());
    }
    assert_eq!(headings, alerts.iter().map(String::as_str).collect());
}
