//! Reads Egret's own MeshConfig.

use crate::{
    mesh::{HostPattern, MeshSettings, OnAgentDown, OutboundTrafficPolicy, SpiffeId},
    source::{fields::Fields, kinds::existing_connections, scalars},
};

/// Each captured resolver has a listener of its own in every workload.
const MAX_CAPTURED_RESOLVERS: usize = agent_common::names::DNS_LISTENERS as usize;

pub(super) fn read(mut spec: Fields<'_>) -> MeshSettings {
    let mut settings = MeshSettings::default();
    if let Some(domain) = spec.take("trustDomain").and_then(|field| {
        field.parse(|text| SpiffeId::new(text, "default", "default").map(|_| text.to_owned()))
    }) {
        settings.trust_domain = domain;
    }
    if let Some(namespace) = spec.text("rootNamespace") {
        // As in Istio, where the gateway lives in the root namespace unless something else is said.
        settings.gateway.namespace.clone_from(&namespace);
        settings.root_namespace = namespace;
    }
    if let Some(mut policy) = spec.take("outboundTrafficPolicy").and_then(|field| field.fields()) {
        if let Some(mode) = policy.need("mode").and_then(|mode| {
            mode.one_of(&[
                ("ALLOW_ANY", OutboundTrafficPolicy::AllowAny),
                ("REGISTRY_ONLY", OutboundTrafficPolicy::RegistryOnly),
            ])
        }) {
            settings.outbound_traffic_policy = mode;
        }
        policy.finish();
    }
    if let Some(mut gateway) = spec.take("egressGateway").and_then(|field| field.fields()) {
        if let Some(namespace) = gateway.text("namespace") {
            settings.gateway.hosts = vec![format!("istio-egressgateway.{namespace}.svc.cluster.local")];
            settings.gateway.namespace = namespace;
        }
        if let Some(labels) = gateway.take("labels") {
            settings.gateway.labels = labels.labels();
        }
        if let Some(hosts) = gateway.take("hosts") {
            let namespace = settings.gateway.namespace.clone();
            settings.gateway.hosts = hosts
                .items()
                .iter()
                .filter_map(|host| {
                    host.parse(|text| match HostPattern::parse(&scalars::qualified(text, &namespace)) {
                        Ok(HostPattern::Exact(host)) => Ok(host.to_string()),
                        _ => Err(format!("{text:?} is not the name of a service")),
                    })
                })
                .collect();
        }
        gateway.finish();
    }
    if let Some(chosen) = spec.take("onAgentDown").and_then(|field| {
        field.one_of(&[OnAgentDown::Refuse, OnAgentDown::Bypass].map(|value| (value.name(), value)))
    }) {
        settings.on_agent_down = chosen;
    }
    settings.bypass = spec.items("bypass").iter().filter_map(|net| net.parse(scalars::network)).collect();
    if let Some(mut dns) = spec.take("dns").and_then(|field| field.fields()) {
        settings.resolvers = dns
            .take("resolvers")
            .map(|list| list.items().iter().filter_map(|item| item.parse(scalars::resolver)).collect());
        settings.dns_capture = dns.take("capture").and_then(|field| field.flag()).unwrap_or_default();
        if settings.dns_capture
            && settings.resolvers.as_ref().is_some_and(|listed| listed.len() > MAX_CAPTURED_RESOLVERS)
        {
            dns.of().refuse(format!(
                "with dns.capture there may be at most {MAX_CAPTURED_RESOLVERS} resolvers: each has a listener in every workload"
            ));
        }
        dns.finish();
    }
    if let Some(existing) =
        spec.take("existingConnections").and_then(|field| existing_connections::read(&field))
    {
        settings.existing_connections = existing;
    }
    if let Some(strict) = spec.take("strictStart").and_then(|field| field.flag()) {
        settings.strict_start = strict;
    }
    spec.finish();
    settings
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{
        mesh::{ExistingConnections, OnAgentDown, OutboundTrafficPolicy},
        source::{
            codes,
            tests::{load, snapshot},
        },
    };

    fn mesh(spec: &str) -> String {
        format!("apiVersion: egret.dev/v1alpha1\nkind: MeshConfig\nmetadata: {{name: mesh}}\nspec: {spec}\n")
    }

    #[test]
    fn resolvers_with_and_without_a_port() {
        let given = snapshot(&mesh("{dns: {resolvers: [192.0.2.53, '2001:db8::53', '192.0.2.54:5353']}}"));
        let expected = ["192.0.2.53:53", "[2001:db8::53]:53", "192.0.2.54:5353"];
        let expected: Vec<_> = expected.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(given.settings.resolvers, Some(expected));
        assert_eq!(snapshot(&mesh("{dns: {resolvers: []}}")).settings.resolvers, Some(Vec::new()));
        assert_eq!(snapshot(&mesh("{}")).settings.resolvers, None);
    }

    #[test]
    fn what_happens_without_an_agent_is_an_explicit_choice() {
        let given = |spec: &str| snapshot(&mesh(spec)).settings.on_agent_down;
        assert_eq!(given("{}"), OnAgentDown::Refuse);
        assert_eq!(given("{onAgentDown: REFUSE}"), OnAgentDown::Refuse);
        assert_eq!(given("{onAgentDown: BYPASS}"), OnAgentDown::Bypass);
        assert!(load(&mesh("{onAgentDown: bypass}")).report.has_errors());
        let problems = &load(&mesh("{onAgentDown: BYPASS}")).report.problems;
        assert_eq!(problems.iter().map(|p| &*p.code).collect::<Vec<_>>(), [codes::ON_AGENT_DOWN]);
    }

    #[test]
    fn dns_is_captured_where_it_says_so() {
        assert!(snapshot(&mesh("{dns: {capture: true}}")).settings.dns_capture);
        for off in ["{dns: {capture: false}}", "{dns: {resolvers: []}}", "{}"] {
            assert!(!snapshot(&mesh(off)).settings.dns_capture, "{off}");
        }
        let many: Vec<_> = (0..17).map(|number| format!("192.0.2.{number}")).collect();
        for bad in [
            "{dns: {capture: 'maybe'}}",
            &format!("{{dns: {{capture: true, resolvers: [{}]}}}}", many.join(", ")),
        ] {
            let loaded = load(&mesh(bad));
            assert!(loaded.report.has_errors(), "{bad}");
            let settings = &loaded.snapshot.settings;
            assert_eq!(settings.outbound_traffic_policy, OutboundTrafficPolicy::RegistryOnly, "{bad}");
        }
    }

    #[test]
    fn pods_start_strictly_unless_it_says_otherwise() {
        let given = |spec: &str| snapshot(&mesh(spec)).settings.strict_start;
        assert!(given("{}") && given("{strictStart: true}"));
        assert!(!given("{strictStart: false}"));
        assert!(load(&mesh("{strictStart: 'perhaps'}")).report.has_errors());
    }

    #[test]
    fn existing_connections() {
        let given = |spec: &str| snapshot(&mesh(spec)).settings.existing_connections;
        assert_eq!(given("{}"), ExistingConnections::Report);
        assert_eq!(given("{existingConnections: {mode: REPORT}}"), ExistingConnections::Report);
        assert_eq!(given("{existingConnections: {mode: RESET}}"), ExistingConnections::Reset);
        assert_eq!(
            given("{existingConnections: {mode: KEEP_UNTIL, keepFor: 10m}}"),
            ExistingConnections::KeepUntil(Duration::from_mins(10))
        );
        for (bad, field) in [
            ("{mode: KEEP_UNTIL}", "keepFor"),
            ("{mode: KEEP_UNTIL, keepFor: soon}", "keepFor"),
            ("{mode: RESET, keepFor: 10m}", "keepFor"),
            ("{mode: KILL}", "mode"),
            ("{}", "mode"),
        ] {
            let report = load(&mesh(&format!("{{existingConnections: {bad}}}"))).report;
            let named = format!("spec.existingConnections.{field}");
            assert!(
                report.problems.iter().any(|found| found.field.as_deref() == Some(&named)),
                "{bad}: {report:?}"
            );
        }
    }

    #[test]
    fn a_name_is_no_resolver() {
        let report = load(&mesh("{dns: {resolvers: [dns.example.com]}}")).report;
        let named =
            report.problems.iter().any(|problem| problem.field.as_deref() == Some("spec.dns.resolvers[0]"));
        assert!(report.has_errors() && named, "{report:?}");
    }
}
