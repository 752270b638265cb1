//! What `check` says about valid objects, and that no text whatever makes the readers panic.

use proptest::prelude::*;

use super::load;
use crate::{
    admin::Question,
    source::{codes, index::Index},
    tls::testing::TestAuthority,
};

const ENTRY: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: test, namespace: default}
spec: {hosts: [test.com], resolution: DNS, ports: [{number: 443, name: https, protocol: HTTPS}]}
";
const SECRET: &str = "---
apiVersion: v1
kind: Secret
metadata: {name: there, namespace: istio-system}
stringData: {ca.crt: x}
";

fn rule(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: default}}\nspec: {spec}\n"
    )
}

#[test]
fn holes_of_istio_are_announced() {
    let secret = SECRET.replace("{ca.crt: x}", &format!("{{ca.crt: {:?}}}", TestAuthority::new().root_pem()));
    let tls = |more: &str| format!("tls: {{mode: SIMPLE{more}}}");
    let on = |policy: &str| rule("a", &format!("{{host: test.com, trafficPolicy: {{{policy}}}}}"));
    for (rules, expected) in [
        (String::new(), vec![codes::TLS_REQUIRED]),
        (on(&tls("")), vec![]),
        (on(&tls(", sni: test.com")), vec![codes::NAME_CHECK]),
        (on(&tls(", sni: test.com, subjectAltNames: [test.com]")), vec![]),
        (on(&tls(", insecureSkipVerify: true")), vec![codes::SKIP_VERIFY]),
        (on(&tls(", credentialName: there")), vec![]),
        (on(&tls(", credentialName: missing")), vec![codes::CREDENTIAL]),
        (on("tls: {mode: ISTIO_MUTUAL}"), vec![codes::ISTIO_MUTUAL]),
        (on(&(tls("") + ", portLevelSettings: [{port: {number: 443}}]")), vec![codes::PORT_LEVEL_INHERITS]),
        (on(&tls("")).replace("test.com", "Test.com"), vec![codes::HOST_CASE]),
        (on(&tls("")) + &rule("b", "{host: test.com}"), vec![codes::SEVERAL_RULES]),
    ] {
        let report = load(&(ENTRY.to_owned() + &secret + &rules)).report;
        let found: Vec<_> = report.problems.iter().map(|problem| problem.code.as_str()).collect();
        assert_eq!(found, expected, "{rules}");
        assert!(!report.has_errors());
    }
}

#[test]
fn a_policy_where_nobody_looks_is_announced() {
    let yaml = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: default}
spec: {action: DENY, rules: [{}]}
";
    let report = load(yaml).report;
    assert_eq!(report.problems[0].code, codes::INERT);
}

proptest! {
    #[test]
    fn nothing_panics(text in "(?s)[ \\-:{}\\[\\]a-z0-9*&!|>'\"\\n#.,/~%]{0,200}") {
        load(&text);
    }

    #[test]
    fn nothing_panics_near_real_objects(cut in 0_usize..2000, with in "[ \\-:{}\\[\\]a-z*~\\n]{0,6}") {
        let mut text = ENTRY.to_owned() + SECRET + &rule("a", "{host: test.com, trafficPolicy: {tls: {mode: SIMPLE}}}");
        let at = cut % text.len();
        text.insert_str(at, &with);
        load(&text);
    }
}

#[test]
fn of_secrets_that_may_not_be_read_nothing_is_said() {
    let rule = rule("a", "{host: test.com, trafficPolicy: {tls: {mode: SIMPLE, credentialName: missing}}}");
    let mut index = Index::default();
    index.apply("config.yaml", &(ENTRY.to_owned() + &rule));
    assert_eq!(index.load().report.problems.len(), 1);
    index.without_credentials();
    let loaded = index.load();
    assert!(loaded.report.problems.is_empty(), "{:#?}", loaded.report);
    let question = Question {
        namespace: "default".to_owned(),
        service_account: "sleep".to_owned(),
        method: "GET".to_owned(),
        url: "http://test.com:443/".to_owned(),
        dialled: None,
        headers: Vec::new(),
    };
    let answer = question.ask(&loaded.snapshot).unwrap();
    assert!(
        answer.text.contains("Secret istio-system/missing (which may not be read from here)"),
        "{}",
        answer.text
    );
}

#[test]
fn a_secret_that_cannot_be_used_is_announced_at_its_place() {
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: it}\nspec:\n  host: test.com\n  \
                trafficPolicy: {tls: {mode: MUTUAL, credentialName: client, subjectAltNames: [test.com]}}\n";
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: client, namespace: istio-system}\nstringData:\n  tls.crt: hello\n  tls.key: hello\n";
    let report = load(&format!("{rule}---\n{secret}")).report;
    let [problem] = &report.problems[..] else { panic!("{report:#?}") };
    assert_eq!((problem.code.as_str(), problem.document), (codes::CREDENTIAL, 2));
    assert_eq!(problem.object.as_deref(), Some("Secret istio-system/client"));
    assert!(problem.message.starts_with("tls.crt (or cert) holds no certificate in PEM form; "), "{problem}");
    assert!(!report.has_errors(), "the rest of the configuration is fine");
}
