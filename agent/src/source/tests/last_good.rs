//! Changes over time: the last good version of each object, per object and per file.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Sent, forwarded, reason};
use crate::{
    authz::Decision,
    mesh::Snapshot,
    reason::Reason,
    source::{
        codes,
        directory::{Loaded, load, watch},
        index::Index,
        report::Report,
    },
};

const GOOD: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: test, namespace: default}
spec: {hosts: [test.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
---
apiVersion: egret.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
";
const BAD: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: test, namespace: default}
spec: {hosts: [test.com], resolution: DSN, ports: [{number: 80, name: http, protocol: HTTP}]}
---
apiVersion: egret.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}
";
const DENY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: deny, namespace: istio-system}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}
";

fn works(snapshot: &Snapshot) -> bool {
    Sent::default().route(snapshot).outcome.is_ok()
}

fn denied(snapshot: &Snapshot, path: &str) -> bool {
    matches!(Sent { path, ..Sent::default() }.authorize(snapshot), Decision::Deny(_))
}

fn codes_of(report: &Report) -> Vec<&str> {
    report.problems.iter().map(|problem| problem.code.as_str()).collect()
}

#[test]
fn an_object_that_turns_bad_keeps_its_last_good_version() {
    let mut index = Index::default();
    index.apply("a.yaml", GOOD);
    let first = index.load();
    assert!(works(&first.snapshot) && first.report.problems.is_empty());
    for bad in [BAD, "kind: [", "apiVersion: v1\n\tkind: x"] {
        index.apply("a.yaml", bad);
        let loaded = index.load();
        assert!(works(&loaded.snapshot), "{bad}");
        assert!(loaded.report.has_errors());
    }
    index.apply("a.yaml", BAD);
    let loaded = index.load();
    assert!(codes_of(&loaded.report).contains(&codes::LAST_GOOD));
    assert!(loaded.snapshot.version > first.snapshot.version);
    // A deleted object goes, and so does a deleted file.
    index.apply("a.yaml", "# nothing\n");
    assert_eq!(index.load().report.objects, 0);
    index.apply("a.yaml", GOOD);
    assert!(works(&index.load().snapshot));
    index.delete("a.yaml");
    assert_eq!(index.load().report.objects, 0);
}

#[test]
fn without_a_last_good_version_a_policy_denies_everything_it_could_be_for() {
    for (bad, what) in [
        (DENY.replace("DENY", "DNEY"), "an unknown action"),
        (DENY.replace("[/admin]", "[]"), "an empty list"),
        (DENY.replace("paths", "path"), "an unknown field"),
        (DENY.replace("AuthorizationPolicy", "AuthorizationPolicies"), "a misspelt kind"),
        (DENY.replace("name: deny, ", ""), "no name"),
        (DENY.replace("{action", "[action"), "no YAML"),
        (DENY.replace("security.istio.io/v1", "security.istio.io/v9"), "an unknown version"),
        (format!("{DENY}---{DENY}"), "two of them"),
    ] {
        let mut index = Index::default();
        index.apply("p.yaml", &bad);
        let loaded = index.load();
        assert!(denied(&loaded.snapshot, "/"), "{what}: {:#?}", loaded.report);
        assert!(codes_of(&loaded.report).contains(&codes::FAIL_CLOSED), "{what}");
        // Corrected, it is in force; broken again, that version stays.
        index.apply("p.yaml", DENY);
        let loaded = index.load();
        assert!(!denied(&loaded.snapshot, "/") && denied(&loaded.snapshot, "/admin"), "{what}");
        index.apply("p.yaml", &bad);
        let loaded = index.load();
        assert!(denied(&loaded.snapshot, "/admin"), "{what}");
    }
}

#[test]
fn a_refused_policy_for_other_gateways_denies_nothing() {
    for elsewhere in [
        DENY.replace("istio-system", "default").replace("DENY", "DNEY"),
        DENY.replace("spec: {action: DENY", "spec: {selector: {matchLabels: {istio: other}}, action: DNEY"),
    ] {
        let loaded = super::load(&elsewhere);
        assert!(loaded.report.has_errors() && !denied(&loaded.snapshot, "/admin"), "{elsewhere}");
    }
}

#[test]
fn settings_that_cannot_be_read_do_not_open_the_mesh() {
    let loaded = super::load(&GOOD.replace("REGISTRY_ONLY", "REGISTRY_ONYL"));
    assert!(loaded.report.has_errors());
    let other = Sent { authority: "other.com", ..Sent::default() };
    assert_eq!(reason(other.route(&loaded.snapshot)), Reason::NotRegistered);
}

#[test]
fn a_bad_virtual_service_or_rule_closes_its_own_host_only() {
    let entry = |host: &str, protocol: &str| {
        format!(
            "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {host}, namespace: default}}
spec: {{hosts: [{host}], resolution: DNS, ports: [{{number: 80, name: http, protocol: {protocol}}}]}}
"
        )
    };
    let both = entry("test.com", "HTTP") + &entry("other.com", "HTTP");
    let route = "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: bad, namespace: default}
spec: {hosts: [test.com], http: [{match: [{uri: {regex: '['}}], route: [{destination: {host: other.com}}]}]}
";
    let rule = "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: bad, namespace: default}
spec: {host: test.com, trafficPolicy: {tls: {mode: SIMPEL}}}
";
    for (bad, expected) in [(route, Reason::NoRoute), (rule, Reason::TlsRequired)] {
        let loaded = super::load(&(both.clone() + bad));
        assert!(loaded.report.has_errors());
        let refusal = super::refused(Sent::default().route(&loaded.snapshot));
        assert_eq!(refusal.reason, expected, "{refusal}");
        assert!(refusal.object.is_some());
        forwarded(Sent { authority: "other.com", ..Sent::default() }.route(&loaded.snapshot));
    }
}

#[tokio::test]
async fn a_directory_is_watched() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    std::fs::write(&file, GOOD).unwrap();
    std::fs::write(directory.path().join("notes.txt"), "kind: [").unwrap();
    assert!(works(&load(directory.path()).unwrap().snapshot));
    assert!(load(&directory.path().join("missing")).is_err());

    let stop = CancellationToken::new();
    let mut loaded = watch(directory.path(), stop.clone()).unwrap();
    assert!(works(&loaded.borrow().snapshot));
    std::fs::write(&file, BAD).unwrap();
    let bad = loaded.wait_for(|loaded| loaded.report.has_errors()).await.unwrap().clone();
    assert!(works(&bad.snapshot));
    // As an editor or a ConfigMap swap does it: a new file takes the name.
    let new = directory.path().join(".new");
    std::fs::write(&new, GOOD).unwrap();
    std::fs::rename(&new, &file).unwrap();
    loaded.wait_for(|loaded| !loaded.report.has_errors()).await.unwrap();
    std::fs::remove_file(&file).unwrap();
    let empty: Loaded = loaded.wait_for(|loaded| loaded.report.objects == 0).await.unwrap().clone();
    assert!(Arc::strong_count(&empty.snapshot) >= 1 && empty.snapshot.version > bad.snapshot.version);
    stop.cancel();
    while loaded.changed().await.is_ok() {}
}
