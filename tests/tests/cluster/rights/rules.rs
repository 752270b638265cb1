//! The rules that Egret has of the API, one line each, and what breaks without it. `super` takes them away one after the other.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use egret_tests::cluster::{
    Kube,
    installed::NAMESPACE,
    parts::{AGENT, CA, GATEWAY, Part},
};
use serde_json::{Value, json};

/// Who removes Egret: no part that runs.
pub(super) const UNINSTALL: Part = Part { account: "egret-uninstall", role: "uninstall" };

/// What breaks without a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breaks {
    /// A new pod of it does not get ready, and says why.
    Start,
    /// A new gateway does not get a certificate.
    Gateway,
    /// A newly enrolled pod is not said to be captured.
    Enrolment,
    /// A newly enrolled pod does not get a certificate.
    Certificate,
    /// A new pod of a namespace without a label is not left alone: the agent cannot make sure.
    Doubt,
    /// An object that somebody deleted is not made again.
    Repair(&'static str, &'static str),
    /// What is denied to a pod is no event of it, or its count stays.
    Event,
    /// Egret cannot be removed.
    Removal,
}

/// A rule: some verbs on a resource, or on one object of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) who: Part,
    /// It holds in the whole cluster.
    pub(super) everywhere: bool,
    pub(super) group: &'static str,
    pub(super) resource: &'static str,
    pub(super) name: Option<&'static str>,
    pub(super) verbs: &'static [&'static str],
    pub(super) breaks: Breaks,
}

/// The roles of Egret's parts; those for people are bound to nobody.
const OURS: &str = "app.kubernetes.io/name=egret,app.kubernetes.io/component!=cli";

const READ: &[&str] = &["list", "watch"];

/// Of the whole cluster.
const fn cluster(
    who: Part,
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    breaks: Breaks,
) -> Rule {
    Rule { who, everywhere: true, group, resource, name: None, verbs, breaks }
}

/// Of Egret's namespace.
const fn own(
    who: Part,
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    breaks: Breaks,
) -> Rule {
    Rule { everywhere: false, ..cluster(who, group, resource, verbs, breaks) }
}

/// Of one object in Egret's namespace.
const fn one(
    who: Part,
    resource: &'static str,
    name: &'static str,
    verbs: &'static [&'static str],
    breaks: Breaks,
) -> Rule {
    Rule { name: Some(name), ..own(who, "", resource, verbs, breaks) }
}

/// All of them.
pub(super) const RULES: &[Rule] = &[
    cluster(AGENT, "", "pods", READ, Breaks::Start),
    cluster(AGENT, "", "namespaces", READ, Breaks::Start),
    cluster(AGENT, "", "namespaces", &["get"], Breaks::Doubt),
    cluster(AGENT, "", "nodes", READ, Breaks::Start),
    cluster(AGENT, "networking.k8s.io", "servicecidrs", READ, Breaks::Start),
    // With meshConfig.dns.capture.
    cluster(AGENT, "networking.istio.io", "serviceentries", READ, Breaks::Start),
    cluster(AGENT, "", "pods/status", &["patch"], Breaks::Enrolment),
    own(AGENT, "discovery.k8s.io", "endpointslices", READ, Breaks::Start),
    one(AGENT, "configmaps", "egret-mesh", READ, Breaks::Start),
    one(AGENT, "configmaps", "egret-ca-root", READ, Breaks::Start),
    one(AGENT, "configmaps", "egret-uninstall", READ, Breaks::Start),
    cluster(GATEWAY, "networking.istio.io", "serviceentries", READ, Breaks::Start),
    cluster(GATEWAY, "networking.istio.io", "gateways", READ, Breaks::Start),
    cluster(GATEWAY, "networking.istio.io", "virtualservices", READ, Breaks::Start),
    cluster(GATEWAY, "networking.istio.io", "destinationrules", READ, Breaks::Start),
    cluster(GATEWAY, "security.istio.io", "authorizationpolicies", READ, Breaks::Start),
    cluster(GATEWAY, "events.k8s.io", "events", &["create"], Breaks::Event),
    cluster(GATEWAY, "events.k8s.io", "events", &["patch"], Breaks::Event),
    own(GATEWAY, "", "secrets", READ, Breaks::Start),
    own(GATEWAY, "discovery.k8s.io", "endpointslices", READ, Breaks::Start),
    one(GATEWAY, "configmaps", "egret-mesh", READ, Breaks::Start),
    one(GATEWAY, "configmaps", "egret-ca-root", READ, Breaks::Start),
    cluster(CA, "authentication.k8s.io", "tokenreviews", &["create"], Breaks::Gateway),
    cluster(CA, "", "pods", &["list"], Breaks::Certificate),
    one(CA, "secrets", "egret-ca", READ, Breaks::Start),
    one(CA, "configmaps", "egret-ca-root", READ, Breaks::Start),
    one(CA, "configmaps", "egret-mesh", READ, Breaks::Start),
    one(CA, "configmaps", "egret-ca-root", &["patch"], Breaks::Repair("configmap", "egret-ca-root")),
    own(CA, "", "configmaps", &["create"], Breaks::Repair("configmap", "egret-ca-root")),
    own(CA, "", "secrets", &["create"], Breaks::Repair("secret", "egret-ca")),
    own(UNINSTALL, "", "pods", &["list"], Breaks::Removal),
    own(UNINSTALL, "", "configmaps", &["create"], Breaks::Removal),
    one(UNINSTALL, "configmaps", "egret-uninstall", &["patch"], Breaks::Removal),
];

/// One thing that somebody may do: role, group, resource, name (empty: any) and verb.
pub(super) type Right = (Role, String, String, String, String);
/// A Role or ClusterRole: its kind as kubectl calls it, and its name.
pub(super) type Role = (&'static str, String);

impl Rule {
    /// The role that has it.
    pub(super) fn role(&self) -> Role {
        let kind = if self.everywhere { "clusterrole" } else { "role" };
        // The roles are named for the parts, the gateway's account as Istio's.
        let name = if self.who == GATEWAY { "egret-gateway" } else { self.who.account };
        (kind, name.to_owned())
    }

    /// The same in single rights.
    pub(super) fn rights(&self) -> impl Iterator<Item = Right> {
        let (role, name) = (self.role(), self.name.unwrap_or_default().to_owned());
        self.verbs.iter().map(move |verb| {
            (role.clone(), self.group.to_owned(), self.resource.to_owned(), name.clone(), (*verb).to_owned())
        })
    }

    /// What the API server says when it is missed, in pieces, by this verb.
    pub(super) fn refusal(&self, verb: &str) -> Vec<String> {
        let mut words = vec![
            format!("system:serviceaccount:{NAMESPACE}:{}", self.who.account),
            format!("cannot {verb} resource \"{}\" in API group \"{}\"", self.resource, self.group),
        ];
        words.extend(self.name.map(|name| format!("\"{name}\" is forbidden")));
        words
    }
}

/// Every single right of Egret's roles, as they are in the cluster.
pub(super) fn given(kube: &Kube) -> Result<BTreeSet<Right>> {
    let mut all = BTreeSet::new();
    for kind in ["role", "clusterrole"] {
        let list = kube.get(&[kind, "-n", NAMESPACE, "-l", OURS])?;
        for role in list["items"].as_array().into_iter().flatten() {
            let name = role["metadata"]["name"].as_str().context("a role without a name")?;
            all.extend(rights_of(&(kind, name.to_owned()), &role["rules"]));
        }
    }
    Ok(all)
}

/// The rules of a role as single rights.
pub(super) fn rights_of(role: &Role, rules: &Value) -> Vec<Right> {
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let mut all = Vec::new();
    for rule in rules.as_array().into_iter().flatten() {
        let mut names = texts(&rule["resourceNames"]);
        if names.is_empty() {
            names.push(String::new());
        }
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for name in &names {
                    for verb in texts(&rule["verbs"]) {
                        all.push((role.clone(), group.clone(), resource.clone(), name.clone(), verb));
                    }
                }
            }
        }
    }
    all
}

/// Single rights as the rules of a role.
pub(super) fn rules_of(rights: &[Right]) -> Value {
    let rule = |(_, group, resource, name, verb): &Right| {
        let mut rule = json!({ "apiGroups": [group], "resources": [resource], "verbs": [verb] });
        if !name.is_empty() {
            rule["resourceNames"] = json!([name]);
        }
        rule
    };
    rights.iter().map(rule).collect()
}
