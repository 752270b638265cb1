//! Bad input: every message names file, document, line, object and field, and what to do.

use super::load;
use crate::source::{codes, report::Severity};

/// YAML, code, severity, line, field, and a part of message or remedy.
type Case<'a> = (&'a str, &'a str, Severity, u64, &'a str, &'a str);

const HEAD: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n---\n";

fn check(kind: &str, group: &str, cases: &[Case<'_>]) {
    for (spec, code, severity, line, field, part) in cases {
        let yaml = format!(
            "{HEAD}apiVersion: {group}\nkind: {kind}\nmetadata:\n  name: it\n  namespace: istio-system\nspec:\n{spec}"
        );
        let report = load(&yaml).report;
        let found = report.problems.iter().find(|problem| {
            problem.code == *code && problem.field.as_deref() == Some(*field) && problem.severity == *severity
        });
        let Some(found) = found else { panic!("{spec}: no {code} at {field} in {:#?}", report.problems) };
        assert_eq!((found.file.as_str(), found.document), ("config.yaml", 2), "{spec}");
        assert_eq!(found.line, Some(line + 10), "{spec}: {found}");
        assert_eq!(found.object.as_deref(), Some(format!("{kind} istio-system/it").as_str()));
        assert!(found.to_string().contains(part), "{spec}: {found}");
    }
}

#[test]
fn service_entries() {
    let e = Severity::Error;
    check(
        "ServiceEntry",
        "networking.istio.io/v1",
        &[
            ("  hots: [a.com]\n", codes::UNKNOWN_FIELD, e, 1, "spec.hots", "did you mean hosts?"),
            ("  hosts: [a.com]\n", codes::MISSING, e, 0, "spec.ports", "add it"),
            ("  hosts:\n  - a.com\n  - 'a b'\n", codes::VALUE, e, 3, "spec.hosts[1]", "not a host name"),
            ("  hosts: a.com\n", codes::TYPE, e, 1, "spec.hosts", "expected a list"),
            ("  resolution: STATC\n", codes::VALUE, e, 1, "spec.resolution", "did you mean STATIC?"),
            ("  ports:\n  - {number: 70000, name: x}\n", codes::VALUE, e, 2, "spec.ports[0].number", "65535"),
            (
                "  ports:\n  - {number: \"80\", name: x}\n",
                codes::TYPE,
                e,
                2,
                "spec.ports[0].number",
                "a whole number",
            ),
            (
                "  ports:\n  - {number: 80, name: x, protocol: HTPP}\n",
                codes::VALUE,
                e,
                2,
                "spec.ports[0].protocol",
                "HTTPS",
            ),
            ("  addresses: [10.0.0.0/33]\n", codes::VALUE, e, 1, "spec.addresses[0]", "CIDR"),
            (
                "  endpoints: [{address: '0177.0.0.1'}]\n",
                codes::VALUE,
                e,
                1,
                "spec.endpoints[0].address",
                "neither",
            ),
            (
                "  endpoints: [{address: 1.2.3.4, ports: {x: 1}}]\n",
                codes::VALUE,
                e,
                1,
                "spec.endpoints[0].ports.x",
                "no port named",
            ),
            (
                "  workloadSelector: {}\n",
                codes::UNSUPPORTED,
                e,
                1,
                "spec.workloadSelector",
                "list the endpoints",
            ),
            (
                "  endpoints: [{address: 1.2.3.4, weight: 3}]\n",
                codes::NO_EFFECT,
                Severity::Warning,
                1,
                "spec.endpoints[0].weight",
                "no effect",
            ),
        ],
    );
}

#[test]
fn routes_and_rules() {
    let (e, w) = (Severity::Error, Severity::Warning);
    check(
        "VirtualService",
        "networking.istio.io/v1beta1",
        &[
            (
                "  http:\n  - rout: []\n",
                codes::UNKNOWN_FIELD,
                e,
                2,
                "spec.http[0].rout",
                "did you mean route?",
            ),
            (
                "  http:\n  - match:\n    - uri: {regex: '['}\n",
                codes::VALUE,
                e,
                3,
                "spec.http[0].match[0].uri.regex",
                "regular expression",
            ),
            (
                "  http: [{match: [{uri: {exact: a, prefix: b}}]}]\n",
                codes::VALUE,
                e,
                1,
                "spec.http[0].match[0].uri",
                "only one of",
            ),
            (
                "  http: [{match: [{sourceLabels: {a: b}}]}]\n",
                codes::UNSUPPORTED,
                e,
                1,
                "spec.http[0].match[0].sourceLabels",
                "sourceNamespace",
            ),
            (
                "  http: [{route: [{destination: {host: a.com}, weight: 0}, {destination: {host: b.com}}]}]\n",
                codes::VALUE,
                e,
                1,
                "spec.http[0].route",
                "add up to 0",
            ),
            ("  http: [{redirect: {}}]\n", codes::VALUE, e, 1, "spec.http[0].redirect", "leads to itself"),
            (
                "  http: [{directResponse: {status: 99}}]\n",
                codes::VALUE,
                e,
                1,
                "spec.http[0].directResponse.status",
                "200 to 599",
            ),
            (
                "  http: [{fault: {abort: {}}}]\n",
                codes::UNSUPPORTED,
                e,
                1,
                "spec.http[0].fault.abort",
                "AuthorizationPolicy",
            ),
            (
                "  http: [{headers: {request: {set: {Transfer-Encoding: x}}}}]\n",
                codes::VALUE,
                e,
                1,
                "spec.http[0].headers.request.set.Transfer-Encoding",
                "connection",
            ),
            (
                "  http: [{retries: {attempts: 2}}]\n",
                codes::NO_EFFECT,
                w,
                1,
                "spec.http[0].retries",
                "no effect",
            ),
            ("  http: [{timeout: 10}]\n", codes::TYPE, e, 1, "spec.http[0].timeout", "put it in quotes"),
        ],
    );
    check(
        "DestinationRule",
        "networking.istio.io/v1",
        &[
            (
                "  trafficPolicy: {tls: {mode: STRIC}}\n",
                codes::VALUE,
                e,
                1,
                "spec.trafficPolicy.tls.mode",
                "SIMPLE",
            ),
            (
                "  trafficPolicy: {tls: {sni: a}}\n",
                codes::MISSING,
                e,
                1,
                "spec.trafficPolicy.tls.mode",
                "missing",
            ),
            (
                "  trafficPolicy: {tls: {mode: MUTUAL}}\n",
                codes::VALUE,
                e,
                1,
                "spec.trafficPolicy.tls",
                "credentialName",
            ),
            (
                "  trafficPolicy: {tls: {mode: SIMPLE, caCertificates: /x}}\n",
                codes::UNSUPPORTED,
                e,
                1,
                "spec.trafficPolicy.tls.caCertificates",
                "Secret",
            ),
            (
                "  trafficPolicy: {outlierDetection: {}}\n",
                codes::NO_EFFECT,
                w,
                1,
                "spec.trafficPolicy.outlierDetection",
                "no effect",
            ),
        ],
    );
}

#[test]
fn policies() {
    let e = Severity::Error;
    let at = "spec.rules[0].to[0].operation";
    check(
        "AuthorizationPolicy",
        "security.istio.io/v1",
        &[
            ("  action: deny\n", codes::VALUE, e, 1, "spec.action", "did you mean DENY?"),
            ("  action: DENY\n", codes::VALUE, e, 0, "spec", "needs rules"),
            ("  rules:\n  - from: []\n", codes::VALUE, e, 2, "spec.rules[0].from", "is empty"),
            (
                "  rules: [{to: [{operation: {path: [/a]}}]}]\n",
                codes::UNKNOWN_FIELD,
                e,
                1,
                &format!("{at}.path"),
                "did you mean paths?",
            ),
            (
                "  rules: [{to: [{operation: {ports: [http]}}]}]\n",
                codes::VALUE,
                e,
                1,
                &format!("{at}.ports[0]"),
                "not a port",
            ),
            (
                "  rules: [{to: [{operation: {ports: [80]}}]}]\n",
                codes::TYPE,
                e,
                1,
                &format!("{at}.ports[0]"),
                "in quotes",
            ),
            (
                "  rules: [{to: [{operation: {paths: ['/a/{x}']}}]}]\n",
                codes::VALUE,
                e,
                1,
                &format!("{at}.paths[0]"),
                "template",
            ),
            ("  rules: [{to: [{operation: {}}]}]\n", codes::VALUE, e, 1, at, "is empty"),
            (
                "  rules: [{when: [{key: request.foo, values: [a]}]}]\n",
                codes::VALUE,
                e,
                1,
                "spec.rules[0].when[0].key",
                "request.headers[NAME]",
            ),
            (
                "  rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]\n",
                codes::VALUE,
                e,
                1,
                "spec.rules[0].from[0].source.ipBlocks[0]",
                "CIDR",
            ),
            (
                "  rules: [{from: [{source: {serviceAccounts: ['a/*']}}]}]\n",
                codes::VALUE,
                e,
                1,
                "spec.rules[0].from[0].source.serviceAccounts[0]",
                "wildcards",
            ),
            (
                "  selector: {matchLabels: {istio: 'e*'}}\n",
                codes::VALUE,
                e,
                1,
                "spec.selector.matchLabels",
                "not allowed",
            ),
        ],
    );
}

#[test]
fn documents() {
    let report = load("a: 1\n---\nkind: Foo\napiVersion: x/v1\n---\nb: [\n").report;
    let codes: Vec<_> = report.problems.iter().map(|p| (p.document, p.code.as_str())).collect();
    assert_eq!(codes, [(1, codes::NOT_AN_OBJECT), (2, codes::UNKNOWN_KIND), (3, codes::SYNTAX)]);
    assert!(report.problems[2].line.is_some_and(|line| line >= 6), "{}", report.problems[2]);

    // A List, by-standers, and comments between documents.
    let report = load(
        "# comment\n---\n# another\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Secret\n  metadata: {name: a}\n  data: {tls.crt: '!'}\n---\nkind: Service\napiVersion: v1\n",
    )
    .report;
    let [only] = &report.problems[..] else { panic!("{:#?}", report.problems) };
    assert_eq!((only.line, only.document, only.field.as_deref()), (Some(10), 1, Some("data.tls.crt")));
    assert!(!only.to_string().contains('!'), "no part of a secret value in a message: {only}");
}

#[test]
fn one_mistake_is_one_error_and_what_follows_comes_after_it() {
    let yaml = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: it}\nspec:\n  hosts: ['a b']\n  \
                ports: [{number: 80, name: x, protocol: HTPP}]\n";
    let report = load(yaml).report;
    let codes: Vec<_> = report.problems.iter().map(|problem| problem.code.as_str()).collect();
    assert_eq!(codes, [codes::VALUE, codes::VALUE, codes::FAIL_CLOSED], "{report:#?}");
}

#[test]
fn a_misspelt_kind_of_a_known_group_is_an_error() {
    for (group, kind, error) in [
        ("networking.istio.io", "DestinationRules", true),
        ("security.istio.io", "ServiceEntry", true),
        ("networking.istio.io", "EnvoyFilter", false),
        ("gateway.networking.k8s.io", "Gateway", false),
    ] {
        let report = load(&format!("apiVersion: {group}/v1\nkind: {kind}\nmetadata: {{name: it}}\n")).report;
        assert_eq!(report.has_errors(), error, "{kind}: {report:#?}");
        assert_eq!(report.problems.len(), 1);
    }
}

#[test]
fn only_regular_files_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    nix::unistd::mkfifo(&at("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at("zero.yaml")).unwrap();
    std::os::unix::fs::symlink("loop.yaml", at("loop.yaml")).unwrap();
    let report = crate::source::directory::load(directory.path()).unwrap().report;
    let unreadable = report.problems.iter().filter(|problem| problem.code == codes::UNREADABLE);
    assert_eq!(unreadable.count(), 3, "{report:#?}");
}
