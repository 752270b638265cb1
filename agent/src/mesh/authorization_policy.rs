//! AuthorizationPolicy: who may send what where, compiled.

use std::{net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{ObjectRef, Selector, TextMatch};

/// One AuthorizationPolicy.
#[derive(Clone, Debug)]
pub struct AuthorizationPolicy {
    /// Its name.
    pub object: ObjectRef,
    /// The gateways it is for.
    pub selector: Selector,
    /// What a match means.
    pub action: PolicyAction,
    /// Any of these; none matches nothing.
    pub rules: Vec<Rule>,
}

/// A policy that is not valid and has no last good version: it denies whatever it could have been for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedPolicy {
    /// Its name.
    pub object: ObjectRef,
    /// Its selector where that much could be read, else everything.
    pub selector: Selector,
}

/// `action`. `AUDIT` has no effect and is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyAction {
    /// `ALLOW`.
    Allow,
    /// `DENY`.
    Deny,
    /// `CUSTOM`: Egret has no providers, so what it selects is denied.
    Custom,
}

/// One rule: one of `from`, one of `to` and all of `when`; an absent part matches everything.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// `from`.
    pub from: Vec<Source>,
    /// `to`.
    pub to: Vec<Operation>,
    /// `when`.
    pub when: Vec<Condition>,
}

/// `from.source`: every field given must match, and no `not` field may.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// `principals`.
    pub principals: Vec<TextMatch>,
    /// `notPrincipals`.
    pub not_principals: Vec<TextMatch>,
    /// `namespaces`.
    pub namespaces: Vec<TextMatch>,
    /// `notNamespaces`.
    pub not_namespaces: Vec<TextMatch>,
    /// `serviceAccounts`.
    pub service_accounts: Vec<ServiceAccount>,
    /// `notServiceAccounts`.
    pub not_service_accounts: Vec<ServiceAccount>,
    /// `ipBlocks`.
    pub ip_blocks: Vec<IpRule>,
    /// `remoteIpBlocks`: the same address behind a tunnel, but a field of its own.
    pub remote_ip_blocks: Vec<IpRule>,
    /// `notIpBlocks` and `notRemoteIpBlocks`.
    pub not_ip_blocks: Vec<IpRule>,
    /// `requestPrincipals` or its `not` form is given: Egret verifies no JWT, so a rule that asks for one is not met in
    /// ALLOW and taken as met in DENY.
    pub request_principals: bool,
}

/// A service account, `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Namespace.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

/// An address range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpRule(pub IpNet);

impl IpRule {
    /// Whether `address` lies in it; an IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

/// `to.operation`: every field given must match, and no `not` field may.
#[derive(Clone, Debug, Default)]
pub struct Operation {
    /// `hosts`.
    pub hosts: Vec<HostRule>,
    /// `notHosts`.
    pub not_hosts: Vec<HostRule>,
    /// `ports`.
    pub ports: Vec<u16>,
    /// `notPorts`.
    pub not_ports: Vec<u16>,
    /// `methods`.
    pub methods: Vec<TextMatch>,
    /// `notMethods`.
    pub not_methods: Vec<TextMatch>,
    /// `paths`.
    pub paths: Vec<PathRule>,
    /// `notPaths`.
    pub not_paths: Vec<PathRule>,
}

/// A host in a policy. The request's port never hides a host: `test.com` is also `test.com:80`.
#[derive(Clone, Debug)]
pub struct HostRule {
    /// Compared without case, with the host without its port.
    pub host: TextMatch,
    /// The port, where the policy names one.
    pub port: Option<PolicyPort>,
}

/// A port after the host in a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyPort {
    /// `host:*`.
    Any,
    /// `host:8443`.
    Number(u16),
}

/// A path in a policy.
#[derive(Clone, Debug)]
pub enum PathRule {
    /// Plain text with at most one `*` at an end.
    Text(TextMatch),
    /// With `{*}` or `{**}`.
    Template(PathTemplate),
}

/// A path template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate(pub Vec<TemplatePart>);

/// One part of a path template, between slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplatePart {
    /// This text.
    Literal(Arc<str>),
    /// `{*}`: one part, not empty.
    One,
    /// `{**}`: one part or more, empty ones too.
    Many,
}

/// One of `when`: a value given must match, and none of `notValues`.
#[derive(Clone, Debug)]
pub struct Condition {
    /// What is looked at.
    pub key: Key,
    /// `values`.
    pub values: Vec<TextMatch>,
    /// `notValues`.
    pub not_values: Vec<TextMatch>,
    /// `values` of an address key.
    pub nets: Vec<IpRule>,
    /// `notValues` of an address key.
    pub not_nets: Vec<IpRule>,
}

/// `when.key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// `request.headers[name]`.
    Header(http::HeaderName),
    /// `source.ip`, `remote.ip`.
    SourceIp,
    /// `source.namespace`.
    SourceNamespace,
    /// `source.principal`.
    SourcePrincipal,
    /// `source.serviceAccount`, as `namespace/name`.
    SourceServiceAccount,
    /// `destination.ip`: the address the workload dialled.
    DestinationIp,
    /// `destination.port`: the port the workload dialled.
    DestinationPort,
    /// `connection.sni`.
    Sni,
}
