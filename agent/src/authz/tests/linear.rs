//! Finding rules by what they need decides exactly as trying all of them in order does: the same outcome, of the same rule.

use std::{net::SocketAddr, sync::Arc};

use http::{HeaderMap, HeaderName};
use proptest::{collection::vec, prelude::*, sample::select};

use crate::{
    authz::{Decision, PolicyRule, Request, evaluate, matching::Subject},
    mesh::{
        AuthorizationPolicy, Condition, HostRule, IpRule, Key, Kind, ObjectRef, Objects, Operation, PathRule,
        PolicyAction, PolicyPort, Rule, Selector, ServiceAccount, Snapshot, Source, SpiffeId, TextMatch,
    },
    route::HttpRequest,
};

/// Tries the rules of all policies, one after the other.
fn one_by_one(snapshot: &Snapshot, request: &Request<'_>) -> Decision {
    let subject = Subject::new(request, &snapshot.settings.trust_domain);
    let of = |action| snapshot.policies.iter().filter(move |policy| policy.action == action);
    let first = |action| {
        of(action).find_map(|policy| {
            let rule = policy.rules.iter().position(|rule| subject.matches(rule, action))?;
            Some(PolicyRule { policy: policy.object.clone(), rule })
        })
    };
    if let Some(denied) = first(PolicyAction::Custom).or_else(|| first(PolicyAction::Deny)) {
        return Decision::Deny(Some(denied));
    }
    match first(PolicyAction::Allow) {
        None if of(PolicyAction::Allow).next().is_some() => Decision::Deny(None),
        allowed => Decision::Allow(allowed),
    }
}

const PRINCIPALS: [&str; 24] = [
    "cluster.local/ns/a/sa/x",
    "cluster.local/ns/a/sa/y",
    "cluster.local/ns/b/sa/x",
    "corp.example/ns/a/sa/x",
    "corp.example/ns/b/sa/y",
    "cluster.local/ns/a/*",
    "corp.example/ns/a/*",
    "cluster.local/ns/a*",
    "cluster.local/ns/a/sa/*",
    "cluster.local/ns/a/sa/x*",
    "cluster.local/*",
    "c*",
    "*/ns/a/sa/x",
    "*ns/a/sa/x",
    "*al/ns/a/sa/x",
    "*/sa/x",
    "*/x",
    "*y",
    "*",
    "",
    "nonsense",
    "a/b/c/d/e/f",
    "/ns/a/sa/x",
    "cluster.local/ns/a/sa/",
];
const NAMESPACES: [&str; 6] = ["a", "b", "c", "a*", "*b", "*"];
const HOSTS: [&str; 14] = [
    "a.com", "A.com", "b.a.com", "test.com", "*.com", "*.COM", "*.a.com", "*com", "*m", "*.", "a.*", "b*",
    "*", "",
];
/// Some as no request should be normalised to.
const ASKED: [&str; 9] =
    ["a.com", "b.a.com", "c.b.a.com", "test.com", "xcom", "A.com", "b.A.Com", ".com", "a.com."];

/// So many values of a list, often none.
fn some<T: Clone + std::fmt::Debug>(all: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![2 => Just(()).prop_map(|()| Vec::new()), 3 => vec(all, 1..3)]
}

fn rarely<T: Clone + std::fmt::Debug>(all: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![8 => Just(()).prop_map(|()| Vec::new()), 1 => vec(all, 1..3)]
}

fn texts(all: &'static [&'static str]) -> impl Strategy<Value = TextMatch> {
    select(all).prop_map(TextMatch::policy)
}

fn accounts() -> impl Strategy<Value = ServiceAccount> {
    (select(vec!["a", "b"]), select(vec!["x", "y"]))
        .prop_map(|(namespace, name)| ServiceAccount { namespace: namespace.into(), name: name.into() })
}

fn blocks() -> impl Strategy<Value = IpRule> {
    select(vec!["10.1.0.0/16", "10.2.0.0/16"]).prop_map(|block| IpRule(block.parse().unwrap()))
}

fn sources() -> impl Strategy<Value = Source> {
    (
        (some(texts(&PRINCIPALS)), rarely(texts(&PRINCIPALS)), some(texts(&NAMESPACES))),
        (rarely(texts(&NAMESPACES)), some(accounts()), rarely(accounts()), rarely(blocks())),
        prop::bool::weighted(0.1),
    )
        .prop_map(|((principals, not_principals, namespaces), others, request_principals)| {
            let (not_namespaces, service_accounts, not_service_accounts, ip_blocks) = others;
            Source {
                principals,
                not_principals,
                namespaces,
                not_namespaces,
                service_accounts,
                not_service_accounts,
                ip_blocks,
                request_principals,
                ..Source::default()
            }
        })
}

fn hosts() -> impl Strategy<Value = HostRule> {
    let port = select(vec![None, None, Some(PolicyPort::Any), Some(PolicyPort::Number(80))]);
    (texts(&HOSTS), port).prop_map(|(host, port)| HostRule { host, port })
}

fn operations() -> impl Strategy<Value = Operation> {
    let paths = texts(&["/x", "/*"]).prop_map(PathRule::Text);
    (
        some(hosts()),
        rarely(hosts()),
        rarely(select(vec![80, 443])),
        rarely(texts(&["GET", "PUT"])),
        rarely(paths),
    )
        .prop_map(|(hosts, not_hosts, ports, methods, paths)| Operation {
            hosts,
            not_hosts,
            ports,
            methods,
            paths,
            ..Operation::default()
        })
}

fn conditions() -> impl Strategy<Value = Condition> {
    let condition = |key: Key, all: &'static [&'static str]| {
        (some(texts(all)), rarely(texts(all))).prop_map(move |(values, not_values)| Condition {
            key: key.clone(),
            values,
            not_values,
            nets: Vec::new(),
            not_nets: Vec::new(),
        })
    };
    prop_oneof![
        condition(Key::SourcePrincipal, &PRINCIPALS),
        condition(Key::SourceNamespace, &NAMESPACES),
        condition(Key::SourceServiceAccount, &["a/x", "b/*"]),
        condition(Key::DestinationPort, &["80", "44*"]),
        condition(Key::Header(HeaderName::from_static("x-a")), &["1", "*"]),
    ]
}

fn rules() -> impl Strategy<Value = Rule> {
    (some(sources()), some(operations()), rarely(conditions())).prop_map(|(from, to, when)| Rule {
        from,
        to,
        when,
    })
}

fn policies() -> impl Strategy<Value = Vec<Arc<AuthorizationPolicy>>> {
    use PolicyAction::{Allow, Custom, Deny};
    let policy = (select(vec![Allow, Allow, Allow, Deny, Deny, Custom]), vec(rules(), 0..4));
    vec(policy, 0..8).prop_map(|policies| {
        let policy = |(number, (action, rules)): (usize, (PolicyAction, Vec<Rule>))| AuthorizationPolicy {
            object: ObjectRef::new(Kind::AuthorizationPolicy, "istio-system", format!("p{number}")),
            selector: Selector::default(),
            action,
            rules,
        };
        policies.into_iter().enumerate().map(policy).map(Arc::new).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn decides_as_one_by_one(
        policies in policies(),
        own in select(vec!["cluster.local", "corp.example"]),
        from in (select(vec!["cluster.local", "corp.example"]), select(vec!["a", "b"]), select(vec!["x", "y"])),
        host in prop::option::weighted(0.8, select(&ASKED[..])),
        port in select(vec![80, 443]),
    ) {
        let mut objects = Objects { policies, ..Objects::default() };
        objects.settings.trust_domain = own.to_owned();
        let snapshot = objects.compile(1);
        let source = SpiffeId::new(from.0, from.1, from.2).unwrap();
        let headers = HeaderMap::new();
        let http = host.map(|host| HttpRequest {
            method: "GET", host, authority: host, path: "/x", query: None, headers: &headers,
        });
        let request = Request {
            source: &source,
            source_address: SocketAddr::from(([10, 1, 3, 5], 40_000)),
            original_destination: SocketAddr::from(([198, 51, 100, 9], port)),
            dialled_host: None,
            sni: None,
            http: http.as_ref(),
        };
        prop_assert_eq!(evaluate(&snapshot, &request), one_by_one(&snapshot, &request));
    }
}
