//! Rules by table, and what holds for every set of policies by property.

mod linear;

use proptest::prelude::*;

use super::{Decision, Request, describe, evaluate};
use crate::source::tests::{Sent, load, snapshot};

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: istio-system}}\nspec: {spec}\n"
    )
}

fn allowed(yaml: &str, sent: &Sent<'_>) -> bool {
    matches!(sent.authorize(&snapshot(yaml)), Decision::Allow(_))
}

#[test]
fn rules_of_an_allow_policy() {
    let get = Sent { path: "/a/b", ..Sent::default() };
    for (rule, expected) in [
        ("{}", true),
        ("{from: [{source: {principals: [cluster.local/ns/default/sa/sleep]}}]}", true),
        ("{from: [{source: {principals: ['*/sa/sleep']}}]}", true),
        ("{from: [{source: {notPrincipals: ['*/sa/sleep']}}]}", false),
        ("{from: [{source: {namespaces: [default], notNamespaces: [default]}}]}", false),
        ("{from: [{source: {serviceAccounts: [default/sleep]}}]}", true),
        ("{from: [{source: {serviceAccounts: [sleep]}}]}", false),
        ("{from: [{source: {ipBlocks: [10.1.0.0/16], remoteIpBlocks: [10.2.0.0/16]}}]}", false),
        ("{from: [{source: {ipBlocks: [10.1.0.0/16]}}]}", true),
        ("{from: [{source: {requestPrincipals: ['*']}}]}", false),
        ("{from: [{source: {notRequestPrincipals: ['*']}}]}", false),
        ("{to: [{operation: {hosts: ['*.com']}}]}", true),
        ("{to: [{operation: {hosts: ['TEST.com']}}]}", true),
        ("{to: [{operation: {hosts: ['test.com:80']}}]}", true),
        ("{to: [{operation: {hosts: ['test.com:81']}}]}", false),
        ("{to: [{operation: {hosts: ['test.com:*']}}]}", true),
        ("{to: [{operation: {ports: ['80'], methods: [GET], paths: ['/a/*']}}]}", true),
        ("{to: [{operation: {methods: [get]}}]}", false),
        ("{to: [{operation: {paths: ['/a/{*}']}}]}", true),
        ("{to: [{operation: {paths: ['/{**}']}}]}", true),
        ("{to: [{operation: {paths: ['/{*}']}}]}", false),
        ("{to: [{operation: {notPaths: ['/a/*']}}]}", false),
        ("{to: [{operation: {hosts: [other.com]}}, {operation: {hosts: [test.com]}}]}", true),
        (
            "{when: [{key: source.namespace, values: [default]}, {key: destination.port, values: ['80']}]}",
            true,
        ),
        ("{when: [{key: source.ip, notValues: [10.1.3.5]}]}", false),
        ("{when: [{key: 'request.headers[x-a]', notValues: [b]}]}", true),
        ("{when: [{key: 'request.headers[x-a]', values: ['*']}]}", false),
        ("{when: [{key: connection.sni, values: ['*']}]}", false),
    ] {
        assert_eq!(allowed(&policy("p", &format!("{{rules: [{rule}]}}")), &get), expected, "{rule}");
    }
}

#[test]
fn a_port_in_the_request_never_hides_a_host() {
    for authority in ["test.com", "TEST.com", "test.com:80", "test.com.", "test.com:080", "test.com:"] {
        let sent = Sent { authority, ..Sent::default() };
        assert!(
            !allowed(
                &policy("p", "{action: DENY, rules: [{to: [{operation: {hosts: [test.com]}}]}]}"),
                &sent
            ),
            "{authority}"
        );
        assert!(
            allowed(&policy("p", "{rules: [{to: [{operation: {hosts: [test.com]}}]}]}"), &sent),
            "{authority}"
        );
    }
}

#[test]
fn without_http_the_undecidable_is_never_let_through() {
    let source = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
    let request = Request {
        source: &source,
        source_address: "10.0.0.1:1".parse().unwrap(),
        original_destination: "192.0.2.1:443".parse().unwrap(),
        dialled_host: None,
        sni: Some("a.test.com"),
        http: None,
    };
    for (spec, expected) in [
        ("{rules: [{to: [{operation: {methods: [GET]}}]}]}", false),
        ("{rules: [{to: [{operation: {notPaths: [/a]}}]}]}", false),
        ("{rules: [{to: [{operation: {ports: ['443']}}]}]}", true),
        ("{rules: [{when: [{key: 'request.headers[a]', notValues: [b]}]}]}", false),
        ("{rules: [{when: [{key: connection.sni, values: ['*.TEST.com']}]}]}", true),
        ("{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}", false),
        ("{action: DENY, rules: [{to: [{operation: {methods: [GET], ports: ['80']}}]}]}", true),
    ] {
        let snapshot = snapshot(&policy("p", spec));
        assert_eq!(matches!(evaluate(&snapshot, &request), Decision::Allow(_)), expected, "{spec}");
    }
}

#[test]
fn actions_and_scope() {
    let sent = Sent::default();
    let any = "rules: [{}]";
    for (yaml, expected) in [
        (policy("p", "{}"), false),
        (policy("p", "{rules: []}"), false),
        (policy("p", &format!("{{action: DENY, {any}}}")), false),
        (policy("p", &format!("{{action: AUDIT, {any}}}")), true),
        (policy("p", &format!("{{action: CUSTOM, provider: {{name: x}}, {any}}}")), false),
        (
            policy(
                "p",
                &format!("{{action: DENY, {any}, selector: {{matchLabels: {{istio: egressgateway}}}}}}"),
            ),
            false,
        ),
        (policy("p", &format!("{{action: DENY, {any}, selector: {{matchLabels: {{istio: other}}}}}}")), true),
        (policy("p", &format!("{{action: DENY, {any}}}")).replace("istio-system", "default"), true),
        (
            policy("p", &format!("{{action: DENY, {any}}}"))
                .replace("name: p,", "name: p, annotations: {istio.io/dry-run: 'T'},"),
            true,
        ),
    ] {
        assert_eq!(allowed(&yaml, &sent), expected, "{yaml}");
    }
}

#[test]
fn decisions_name_policy_and_rule() {
    let yaml = policy(
        "a",
        "{action: DENY, rules: [{to: [{operation: {paths: [/x]}}]}, {to: [{operation: {paths: [/y]}}]}]}",
    );
    let with = snapshot(&yaml);
    let decision = Sent { path: "/y", ..Sent::default() }.authorize(&with);
    assert_eq!(describe(&with, &decision), "denied by rule 1 of AuthorizationPolicy istio-system/a");
    let broken = load(&yaml.replace("paths", "path")).snapshot;
    let decision = Sent::default().authorize(&broken);
    assert!(describe(&broken, &decision).contains("AuthorizationPolicy istio-system/a is not valid"));
}

#[test]
fn the_mesh_has_its_own_trust_domain() {
    let mesh = "apiVersion: egret.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: m}\nspec: {trustDomain: corp.example}\n";
    let rule = "{rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/sleep]}}]}]}";
    let yaml = mesh.to_owned() + &policy("p", rule);
    let from = |from| Sent { from, ..Sent::default() };
    assert!(allowed(&yaml, &from("spiffe://corp.example/ns/default/sa/sleep")));
    assert!(!allowed(&yaml, &from("spiffe://other.example/ns/default/sa/sleep")));
}

fn any_policy() -> impl Strategy<Value = (bool, usize)> {
    (any::<bool>(), 0..4_usize)
}

const PATHS: [&str; 4] = ["/a", "/b", "/a*", "*"];

proptest! {
    #[test]
    fn deny_comes_before_allow_and_order_does_not_matter(
        policies in prop::collection::vec(any_policy(), 0..5),
        path in prop::sample::select(vec!["/a", "/b", "/ab", "/c"]),
    ) {
        let spec = |(deny, path): &(bool, usize)| {
            let action = if *deny { "DENY" } else { "ALLOW" };
            format!("{{action: {action}, rules: [{{to: [{{operation: {{paths: ['{}']}}}}]}}]}}", PATHS[*path])
        };
        let yaml: String = policies.iter().enumerate().map(|(i, p)| policy(&format!("p{i}"), &spec(p))).collect();
        let turned: String =
            policies.iter().rev().enumerate().map(|(i, p)| policy(&format!("p{i}"), &spec(p))).collect();
        let matches = |pattern: &str| match pattern {
            "*" => true,
            "/a*" => path.starts_with("/a"),
            exact => exact == path,
        };
        let hit = |deny: bool| policies.iter().any(|(d, p)| *d == deny && matches(PATHS[*p]));
        let has_allow = policies.iter().any(|(deny, _)| !deny);
        let expected = !hit(true) && (!has_allow || hit(false));
        let sent = Sent { path, ..Sent::default() };
        prop_assert_eq!(allowed(&yaml, &sent), expected);
        prop_assert_eq!(allowed(&turned, &sent), expected);
    }
}
