//! Warnings about valid objects: where Egret reads them more safely than Istio, and where they can have no effect.

use std::{collections::HashMap, sync::Arc};

use super::{
    codes,
    index::Place,
    report::{Problem, Severity},
};
use crate::{
    mesh::{DestinationRule, Kind, ObjectRef, Objects, OnAgentDown, TlsSetting},
    route::{AppProtocol, TlsOrigination},
    tls::originate::check_credential,
};

struct Lint<'a> {
    places: &'a HashMap<ObjectRef, Place>,
    problems: &'a mut Vec<Problem>,
}

impl Lint<'_> {
    fn warn(&mut self, object: &ObjectRef, code: &str, field: &str, message: String, remedy: &str) {
        let Some(place) = self.places.get(object) else { return };
        self.problems.push(Problem {
            severity: Severity::Warning,
            code: code.to_owned(),
            file: place.file.to_string(),
            document: place.document,
            line: place.line,
            object: Some(object.to_string()),
            field: Some(field.to_owned()),
            message,
            remedy: Some(remedy.to_owned()),
        });
    }
}

/// Checks everything in force. Where the credentials are unknown, nothing is said of them.
pub(super) fn check(objects: &Objects, places: &HashMap<ObjectRef, Place>, problems: &mut Vec<Problem>) {
    let mut lint = Lint { places, problems };
    if objects.settings.on_agent_down == OnAgentDown::Bypass
        && let Some(object) = places.keys().find(|object| object.kind == Kind::MeshConfig)
    {
        lint.warn(
            object,
            codes::ON_AGENT_DOWN,
            "spec.onAgentDown",
            "while no agent runs, TCP connections of workloads go out directly: neither authorized nor encrypted, and in no log"
                .to_owned(),
            "REFUSE, unless availability matters more than control",
        );
    }
    for rule in &objects.destination_rules {
        destination_rule(&mut lint, objects, rule);
    }
    for entry in &objects.service_entries {
        for port in entry.ports.iter().filter(|p| matches!(p.protocol, AppProtocol::Https | AppProtocol::Tls))
        {
            let originated = entry.hosts.iter().all(|host| {
                objects.destination_rules.iter().any(|rule| {
                    rule.host.overlaps(host)
                        && tls_settings(rule).any(|(number, _)| number.is_none_or(|n| n == port.number))
                })
            });
            if !originated {
                lint.warn(
                    &entry.object,
                    codes::TLS_REQUIRED,
                    "spec.ports",
                    format!("port {} is declared HTTPS or TLS and no DestinationRule originates TLS for it: TLS of the workloads passes, clear requests are refused (Istio sends them in the clear)", port.number),
                    "add a DestinationRule with tls.mode SIMPLE or MUTUAL if workloads send clear requests",
                );
            }
        }
    }
    let mut inert: Vec<_> = Vec::new();
    for policy in &objects.policies {
        let namespace = &*policy.object.namespace;
        if namespace != objects.settings.root_namespace && namespace != objects.settings.gateway.namespace {
            inert.push(policy.object.clone());
        }
    }
    for object in inert {
        let homes = format!("{} or {}", objects.settings.gateway.namespace, objects.settings.root_namespace);
        lint.warn(
            &object,
            codes::INERT,
            "metadata.namespace",
            format!("policies for the egress gateway are read from {homes} only, so this one has no effect"),
            "move it there",
        );
    }
}

/// The TLS settings of a rule, with the port they are for.
fn tls_settings(rule: &DestinationRule) -> impl Iterator<Item = (Option<u16>, &TlsSetting)> {
    let policies = std::iter::once(&rule.policy).chain(rule.subsets.iter().map(|subset| &subset.policy));
    policies.flat_map(|policy| {
        let own = policy.tls.as_ref().map(|tls| (None, tls));
        let ports = policy.ports.iter().filter_map(|(port, p)| Some((Some(*port), p.tls.as_ref()?)));
        own.into_iter().chain(ports)
    })
}

fn destination_rule(lint: &mut Lint<'_>, objects: &Objects, rule: &DestinationRule) {
    let object = &rule.object;
    if rule.policy.tls.is_some() && rule.policy.ports.values().any(|port| port.tls.is_none()) {
        lint.warn(
            object,
            codes::PORT_LEVEL_INHERITS,
            "spec.trafficPolicy.portLevelSettings",
            "an entry without tls inherits the tls above it (in Istio it would switch TLS off)".to_owned(),
            "repeat tls in the entry",
        );
    }
    let twin = objects.destination_rules.iter().find(|other| {
        other.object != *object
            && other.object.namespace == object.namespace
            && other.host == rule.host
            && other.object < *object
    });
    if let Some(twin) = twin {
        lint.warn(
            object,
            codes::SEVERAL_RULES,
            "spec.host",
            format!(
                "{} is for the same host; the first by name that says something about TLS is taken",
                twin.object
            ),
            "merge the two",
        );
    }
    let gateway = objects.settings.gateway.hosts.iter().any(|host| rule.host.matches(host));
    for (_, tls) in tls_settings(rule) {
        match tls {
            TlsSetting::IstioMutual if !gateway => lint.warn(
                object,
                codes::ISTIO_MUTUAL,
                "spec.trafficPolicy",
                "ISTIO_MUTUAL works between proxies of the mesh only; connections to this host are refused"
                    .to_owned(),
                "use SIMPLE or MUTUAL",
            ),
            TlsSetting::Originate { insecure_skip_verify: true, .. } => lint.warn(
                object,
                codes::SKIP_VERIFY,
                "spec.trafficPolicy",
                "the server's certificate is not verified: anyone on the way can read and change the traffic"
                    .to_owned(),
                "remove insecureSkipVerify",
            ),
            TlsSetting::Originate { sni, subject_alt_names, .. } => {
                if let (Some(sni), true) = (sni, subject_alt_names.is_empty()) {
                    lint.warn(
                        object,
                        codes::NAME_CHECK,
                        "spec.trafficPolicy",
                        format!(
                            "the server's certificate must bear {sni} (Istio would accept any name here)"
                        ),
                        "write subjectAltNames to say which names are meant",
                    );
                }
                credential(lint, objects, rule, tls);
            }
            _ => {}
        }
    }
}

/// Whether the Secret of a rule is there and usable.
fn credential(lint: &mut Lint<'_>, objects: &Objects, rule: &DestinationRule, tls: &TlsSetting) {
    let TlsSetting::Originate { mutual, credential_name: Some(name), insecure_skip_verify, .. } = tls else {
        return;
    };
    if objects.credentials_unknown {
        return;
    }
    let home = &objects.settings.gateway.namespace;
    let find = |name: &str| {
        objects.credentials.iter().find(|c| *c.object.namespace == **home && *c.object.name == *name).cloned()
    };
    let (main, ca) = (find(name), find(&format!("{name}-cacert")));
    if main.is_none() && ca.is_none() {
        return lint.warn(
            &rule.object,
            codes::CREDENTIAL,
            "spec.trafficPolicy",
            format!(
                "Secret {home}/{name} is not there or holds no TLS material; connections to this host fail"
            ),
            "create it in the gateway's namespace",
        );
    }
    let origination = TlsOrigination {
        mutual: *mutual,
        credential_name: Some(Arc::clone(name)),
        sni: None,
        subject_alt_names: Vec::new(),
        insecure_skip_verify: *insecure_skip_verify,
        object: rule.object.clone(),
    };
    if let Err(refusal) = check_credential(main, ca, &origination) {
        let secret = refusal.object.unwrap_or_else(|| rule.object.clone());
        let why = refusal.detail.strip_prefix(&format!("{secret}: ")).unwrap_or(&refusal.detail);
        let message = format!("{why}; connections for which {} uses it fail", rule.object);
        lint.warn(&secret, codes::CREDENTIAL, "data", message, "replace it");
    }
}
