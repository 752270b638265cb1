//! Made-up events: what is in force after each.

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    super::{Scope, object::Object, subject::Subject},
    Change, Feed,
};
use crate::{
    kubernetes::standing::Standing,
    mesh::OutboundTrafficPolicy,
    source::{
        codes,
        following::{Loaded, Source as _},
    },
};

const PLACE: &str = "ConfigMap istio-system/egret-mesh";

fn map(data: &Value) -> Object {
    let value =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "egret-mesh"}, "data": data});
    Object { place: PLACE.to_owned(), value }
}

fn mesh(spec: &str) -> Object {
    let head = "apiVersion: egret.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\n";
    map(&json!({"mesh.yaml": format!("{head}spec: {spec}\n")}))
}

fn entry(name: &str, resolution: &str) -> Object {
    let value = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "hosts": [format!("{name}.com")], "resolution": resolution,
            "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
        },
    });
    Object { place: format!("ServiceEntry default/{name}"), value }
}

fn entries(names: &[&str]) -> Change {
    Change::Listed(Subject::ServiceEntry, names.iter().map(|name| entry(name, "DNS")).collect())
}

/// Everything else was read, and there is nothing.
fn rest() -> Vec<Change> {
    use Subject::{AuthorizationPolicy, DestinationRule, Gateway, Secret, VirtualService};
    [Gateway, VirtualService, DestinationRule, AuthorizationPolicy, Secret]
        .map(|subject| Change::Listed(subject, Vec::new()))
        .into()
}

fn feed(scope: Scope) -> (Feed, watch::Receiver<std::collections::BTreeSet<Subject>>, Standing) {
    let standing = Standing::default();
    let (feed, wanted) = Feed::new(scope, "istio-system", standing.clone());
    (feed, wanted, standing)
}

/// A gateway's, with these ServiceEntries in force.
fn gateway(names: &[&str]) -> (Feed, Loaded) {
    let (mut feed, ..) = feed(Scope::Gateway);
    let mut all = rest();
    all.extend([entries(names), Change::Listed(Subject::Settings, vec![mesh("{}")])]);
    let loaded = feed.take(all).unwrap();
    (feed, loaded)
}

fn hosts(loaded: &Loaded) -> Vec<String> {
    let services = loaded.snapshot.registry.services();
    let mut hosts: Vec<_> = services.map(|service| service.host.to_string()).collect();
    hosts.sort();
    hosts
}

fn codes_of(loaded: &Loaded) -> Vec<&str> {
    loaded.report.problems.iter().map(|problem| &*problem.code).collect()
}

#[test]
fn nothing_is_in_force_before_every_kind_was_read() {
    let (mut feed, wanted, standing) = feed(Scope::Gateway);
    assert_eq!(wanted.borrow().len(), 7);
    assert!(feed.take(vec![Change::Listed(Subject::Settings, vec![mesh("{}")])]).is_none());
    let mut rest = rest();
    let last = rest.pop().unwrap();
    assert!(feed.take(rest).is_none());
    assert!(feed.take(vec![entries(&["a"])]).is_none());
    let loaded = feed.take(vec![last]).unwrap();
    assert_eq!(hosts(&loaded), ["a.com"]);
    assert!(standing.is_complete());
}

#[test]
fn a_kind_that_the_cluster_does_not_know_counts_as_read() {
    let (mut feed, ..) = feed(Scope::Gateway);
    let mut all = rest();
    all.push(Change::Listed(Subject::Settings, vec![mesh("{}")]));
    assert!(feed.take(all).is_none());
    let loaded = feed.take(vec![Change::Unknown(Subject::ServiceEntry)]).unwrap();
    assert!(hosts(&loaded).is_empty());
    assert!(feed.take(vec![Change::Unknown(Subject::ServiceEntry)]).is_none(), "that is no news");
    // Installed later.
    assert_eq!(hosts(&feed.take(vec![entries(&["a"])]).unwrap()), ["a.com"]);
    // What is away for a moment, with an API server that just begins, is not gone.
    assert!(feed.take(vec![Change::Unknown(Subject::ServiceEntry)]).is_none());
}

#[test]
fn a_list_that_says_the_same_changes_nothing_and_what_is_missing_from_it_goes() {
    let (mut feed, before) = gateway(&["a", "b"]);
    assert!(feed.take(vec![entries(&["b", "a"])]).is_none());
    assert!(feed.take(vec![Change::Applied(Subject::ServiceEntry, entry("a", "DNS"))]).is_none());
    let after = feed.take(vec![entries(&["b", "c"])]).unwrap();
    assert_eq!(hosts(&after), ["b.com", "c.com"]);
    assert!(after.snapshot.version > before.snapshot.version);
    let deleted = vec![Change::Deleted(Subject::ServiceEntry, "ServiceEntry default/b".to_owned())];
    assert_eq!(hosts(&feed.take(deleted).unwrap()), ["c.com"]);
}

#[test]
fn a_bad_object_is_named_with_its_field_and_its_last_good_version_stays() {
    let (mut feed, _) = gateway(&["a"]);
    let loaded = feed.take(vec![Change::Applied(Subject::ServiceEntry, entry("a", "DSN"))]).unwrap();
    assert_eq!(hosts(&loaded), ["a.com"]);
    assert_eq!(codes_of(&loaded), [codes::VALUE, codes::LAST_GOOD]);
    let said = loaded.report.problems[0].to_string();
    assert!(said.starts_with("error[EG0108] ServiceEntry default/a spec.resolution: \"DSN\""), "{said}");
    let json = serde_json::to_value(&loaded.report.problems[0]).unwrap();
    assert_eq!(json["file"], "ServiceEntry default/a");
    assert_eq!(json["object"], "ServiceEntry default/a");
    assert_eq!((&json["document"], &json["line"]), (&json!(0), &Value::Null));
    // Deleted and made again: there is no last good version any more.
    let gone = Change::Deleted(Subject::ServiceEntry, "ServiceEntry default/a".to_owned());
    feed.take(vec![gone]).unwrap();
    let loaded = feed.take(vec![Change::Applied(Subject::ServiceEntry, entry("a", "DSN"))]).unwrap();
    assert_eq!(codes_of(&loaded), [codes::VALUE, codes::FAIL_CLOSED]);
}

#[test]
fn without_settings_a_role_waits_and_says_for_what() {
    let (mut feed, _, standing) = feed(Scope::Ca);
    assert!(feed.take(vec![Change::Listed(Subject::Settings, Vec::new())]).is_none());
    assert!(!standing.is_complete());
    assert!(standing.problems()[0].contains("is not there"), "{:?}", standing.problems());
    for (bad, said) in [
        (map(&json!({"mesh.yml": ""})), "has no key mesh.yaml"),
        (map(&json!({"mesh.yaml": "# later\n"})), "holds no MeshConfig"),
        (map(&json!({"mesh.yaml": "spec: [\n"})), "is not valid YAML"),
        (mesh("{trustDomain: 1}"), "spec.trustDomain"),
    ] {
        assert!(feed.take(vec![Change::Applied(Subject::Settings, bad)]).is_none());
        assert!(!standing.is_complete());
        assert!(standing.problems()[0].contains(said), "{said}: {:?}", standing.problems());
    }
    let good = Change::Applied(Subject::Settings, mesh("{trustDomain: example.org}"));
    assert_eq!(feed.take(vec![good]).unwrap().snapshot.settings.trust_domain, "example.org");
    assert!(standing.is_complete() && standing.problems().is_empty());
}

#[test]
fn settings_that_go_stay_in_force() {
    let (mut feed, _) = gateway(&[]);
    let strict = mesh("{trustDomain: example.org, outboundTrafficPolicy: {mode: REGISTRY_ONLY}}");
    feed.take(vec![Change::Applied(Subject::Settings, strict)]).unwrap();
    for bad in [
        Change::Deleted(Subject::Settings, PLACE.to_owned()),
        Change::Applied(Subject::Settings, map(&json!({"mesh.yaml": ""}))),
        Change::Applied(Subject::Settings, mesh("{trustDomain: 1}")),
        Change::Listed(Subject::Settings, Vec::new()),
    ] {
        let loaded = feed.take(vec![bad]).unwrap();
        assert!(loaded.report.has_errors());
        let settings = &loaded.snapshot.settings;
        assert_eq!(settings.trust_domain, "example.org");
        assert_eq!(settings.outbound_traffic_policy, OutboundTrafficPolicy::RegistryOnly);
    }
}

#[test]
fn only_the_settings_are_read_from_their_place() {
    let (mut feed, _) = gateway(&[]);
    let text = format!(
        "{}\n---\napiVersion: egret.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec: {{}}\n",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: a, namespace: istio-system}\nstringData: {ca.crt: x}"
    );
    let loaded =
        feed.take(vec![Change::Applied(Subject::Settings, map(&json!({"mesh.yaml": text})))]).unwrap();
    assert_eq!(codes_of(&loaded), [codes::INERT]);
    assert!(loaded.snapshot.credentials.is_empty());
}

#[test]
fn an_agent_holds_service_entries_while_it_answers_names() {
    let (mut feed, mut wanted, _) = feed(Scope::Agent);
    assert_eq!(wanted.borrow_and_update().len(), 1);
    assert!(feed.take(vec![entries(&["a"])]).is_none(), "not wanted yet");
    let loaded = feed.take(vec![Change::Listed(Subject::Settings, vec![mesh("{}")])]).unwrap();
    assert!(hosts(&loaded).is_empty());
    let on = Change::Applied(Subject::Settings, mesh("{dns: {capture: true}}"));
    assert!(feed.take(vec![on]).is_none(), "names without their entries would be answered wrongly");
    assert!(wanted.has_changed().unwrap() && wanted.borrow_and_update().contains(&Subject::ServiceEntry));
    let loaded = feed.take(vec![entries(&["a"])]).unwrap();
    assert!(loaded.snapshot.settings.dns_capture);
    assert_eq!(hosts(&loaded), ["a.com"]);
    let loaded = feed.take(vec![Change::Applied(Subject::Settings, mesh("{}"))]).unwrap();
    assert!(hosts(&loaded).is_empty());
    assert_eq!(wanted.borrow_and_update().len(), 1);
    assert!(feed.take(vec![entries(&["b"])]).is_none(), "what its watch saw last is of no use");
}

#[test]
fn ten_thousand_objects_are_one_load() {
    let names: Vec<_> = (0..10_000).map(|number| format!("host-{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let (mut feed, loaded) = gateway(&names);
    assert_eq!((loaded.snapshot.version, loaded.report.objects), (1, 10_001));
    assert!(feed.take(vec![entries(&names)]).is_none());
}
