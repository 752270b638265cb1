//! Reads a DestinationRule.

use std::{collections::BTreeMap, sync::Arc};

use super::{Meta, match_labels};
use crate::{
    mesh::{DestinationRule, HostPattern, Selector, Subset, TlsSetting, TrafficPolicy},
    route::LoadBalancer,
    source::{
        codes,
        fields::{Field, Fields},
        report::Severity,
        scalars,
    },
};

pub(super) fn read(meta: &Meta, mut spec: Fields<'_>) -> Option<DestinationRule> {
    let namespace = &meta.object.namespace;
    let host = spec
        .need("host")
        .inspect(|field| {
            if field.node.text().is_some_and(|text| text.bytes().any(|b| b.is_ascii_uppercase())) {
                field.report(
                    Severity::Warning,
                    codes::HOST_CASE,
                    "has upper-case letters, for which Istio would not find this rule; Egret does",
                    Some("write it in lower case".to_owned()),
                );
            }
        })
        .and_then(|field| field.parse(|text| HostPattern::parse(&scalars::qualified(text, namespace))));
    let policy = spec.take("trafficPolicy").and_then(|field| traffic_policy(&field, true));
    let subsets = spec.items("subsets").iter().filter_map(subset).collect();
    let export_to = scalars::export_to(spec.take("exportTo"), namespace);
    let workload_selector = match_labels(spec.take("workloadSelector"));
    spec.finish();
    Some(DestinationRule {
        object: meta.object.clone(),
        host: host?,
        policy: policy.unwrap_or_default(),
        subsets,
        export_to,
        workload_selector,
    })
}

fn subset(field: &Field<'_>) -> Option<Subset> {
    let mut fields = field.fields()?;
    let name = fields.need("name").and_then(|f| f.text());
    let labels = Selector(fields.take("labels").map(|f| f.labels()).unwrap_or_default());
    let policy = fields.take("trafficPolicy").and_then(|field| traffic_policy(&field, true));
    fields.finish();
    Some(Subset { name: name?.into(), labels, policy: policy.unwrap_or_default() })
}

fn traffic_policy(field: &Field<'_>, top: bool) -> Option<TrafficPolicy> {
    let mut fields = field.fields()?;
    let mut policy = TrafficPolicy::default();
    if let Some(tls) = fields.take("tls") {
        policy.tls = tls_setting(&tls);
    }
    if let Some(mut balancer) = fields.take("loadBalancer").and_then(|f| f.fields()) {
        policy.load_balancer = balancer.take("simple").and_then(|simple| {
            simple.one_of(&[
                ("UNSPECIFIED", LoadBalancer::LeastRequest),
                ("ROUND_ROBIN", LoadBalancer::RoundRobin),
                ("RANDOM", LoadBalancer::Random),
                ("LEAST_CONN", LoadBalancer::LeastRequest),
                ("LEAST_REQUEST", LoadBalancer::LeastRequest),
            ])
        });
        balancer.without_effect(&["consistentHash", "localityLbSetting", "warmupDurationSecs", "warmup"]);
        balancer.finish();
    }
    if let Some(mut pool) = fields.take("connectionPool").and_then(|f| f.fields()) {
        if let Some(mut tcp) = pool.take("tcp").and_then(|f| f.fields()) {
            policy.connect_timeout =
                tcp.take("connectTimeout").and_then(|timeout| timeout.parse(scalars::duration));
            tcp.without_effect(&["maxConnections", "tcpKeepalive", "maxConnectionDuration", "idleTimeout"]);
            tcp.finish();
        }
        pool.without_effect(&["http"]);
        pool.finish();
    }
    fields.without_effect(&["outlierDetection", "retryBudget"]);
    fields.unsupported(&["tunnel", "proxyProtocol"], "remove it, or keep this traffic on Istio's gateway");
    if top {
        let mut ports = BTreeMap::new();
        for item in fields.items("portLevelSettings") {
            let number = item.fields().and_then(|mut f| {
                let mut port = f.need("port")?.fields()?;
                let number = port.need("number")?.port();
                port.finish();
                number
            });
            let settings = traffic_policy(&item, false);
            if let (Some(number), Some(settings)) = (number, settings)
                && ports.insert(number, settings).is_some()
            {
                item.refuse(format!("port {number} is given twice"));
            }
        }
        policy.ports = ports;
    } else {
        fields.ignore(&["port"]);
    }
    fields.finish();
    Some(policy)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}

fn tls_setting(field: &Field<'_>) -> Option<TlsSetting> {
    let mut fields = field.fields()?;
    let mode = fields.need("mode").and_then(|mode| {
        mode.one_of(&[
            ("DISABLE", Mode::Disable),
            ("SIMPLE", Mode::Simple),
            ("MUTUAL", Mode::Mutual),
            ("ISTIO_MUTUAL", Mode::IstioMutual),
        ])
    });
    let credential_name: Option<Arc<str>> = fields.text("credentialName").map(Into::into);
    let sni: Option<Arc<str>> = fields.text("sni").map(Into::into);
    let subject_alt_names: Vec<Arc<str>> =
        fields.texts("subjectAltNames").into_iter().map(Arc::from).collect();
    let insecure_skip_verify = fields.take("insecureSkipVerify").and_then(|f| f.flag()).unwrap_or_default();
    fields.unsupported(
        &["clientCertificate", "privateKey", "caCertificates", "caCrl"],
        "put the files into a Secret in the gateway's namespace and name it in credentialName",
    );
    fields.finish();
    let mode = mode?;
    if mode == Mode::Mutual && credential_name.is_none() {
        field.refuse("mode MUTUAL needs credentialName");
    }
    if matches!(mode, Mode::Disable | Mode::IstioMutual) && credential_name.is_some() {
        field.refuse("credentialName needs mode SIMPLE or MUTUAL");
    }
    if insecure_skip_verify && !subject_alt_names.is_empty() {
        field.refuse(
            "insecureSkipVerify verifies nothing, so subjectAltNames cannot be met; remove one of them",
        );
    }
    Some(match mode {
        Mode::Disable => TlsSetting::Disable,
        Mode::IstioMutual => TlsSetting::IstioMutual,
        Mode::Simple | Mode::Mutual => TlsSetting::Originate {
            mutual: mode == Mode::Mutual,
            credential_name,
            sni,
            subject_alt_names,
            insecure_skip_verify,
        },
    })
}
