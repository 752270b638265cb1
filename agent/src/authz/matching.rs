//! One rule against one request.
//!
//! What needs HTTP and meets a connection without it cannot be decided: in DENY it counts as matching, in ALLOW as not
//! matching, so that the undecidable is never let through. Istio does the same.

use std::{cell::OnceCell, net::IpAddr};

use super::{Request, paths};
use crate::mesh::{
    Condition, HostRule, IpRule, Key, Operation, PolicyAction, PolicyPort, Rule, ServiceAccount, Source,
    SpiffeId, TextMatch,
};

/// What policies may call the mesh's own trust domain.
const OWN_TRUST_DOMAIN: &str = "cluster.local";

/// A request, prepared once for all policies.
pub(super) struct Subject<'a> {
    request: &'a Request<'a>,
    /// Of the mesh's own trust domain, which has another name than the one that policies may give it.
    has_alias: bool,
    /// The principal under that name, once it was needed.
    alias: OnceCell<String>,
}

/// [`Subject`], together with what a field counts as that cannot be decided.
struct View<'a> {
    subject: &'a Subject<'a>,
    request: &'a Request<'a>,
    undecidable: bool,
}

/// `wanted` empty or one matches, and none of `unwanted`.
fn both<T>(wanted: &[T], unwanted: &[T], matches: impl Fn(&T) -> bool) -> bool {
    (wanted.is_empty() || wanted.iter().any(&matches)) && !unwanted.iter().any(&matches)
}

impl<'a> Subject<'a> {
    /// Prepares a request. `cluster.local` in a policy stands for the mesh's own trust domain, whatever it is called (as
    /// in Istio).
    pub(super) fn new(request: &'a Request<'a>, trust_domain: &str) -> Self {
        let has_alias = request.source.trust_domain() == trust_domain && trust_domain != OWN_TRUST_DOMAIN;
        Self { request, has_alias, alias: OnceCell::new() }
    }

    fn alias(&self) -> Option<&str> {
        let make = || format!("{OWN_TRUST_DOMAIN}{}", self.request.source.path());
        self.has_alias.then(|| &**self.alias.get_or_init(make))
    }

    /// Whether `rule` of a policy with `action` matches.
    pub(super) fn matches(&self, rule: &Rule, action: PolicyAction) -> bool {
        let undecidable = action != PolicyAction::Allow;
        let view = View { subject: self, request: self.request, undecidable };
        (rule.from.is_empty() || rule.from.iter().any(|source| view.source(source)))
            && (rule.to.is_empty() || rule.to.iter().any(|operation| view.operation(operation)))
            && rule.when.iter().all(|condition| view.condition(condition))
    }
}

impl View<'_> {
    fn source(&self, source: &Source) -> bool {
        let id = self.request.source;
        let address = self.request.source_address.ip();
        (!source.request_principals || self.undecidable)
            && both(&source.principals, &source.not_principals, |p| self.principal(p))
            && both(&source.namespaces, &source.not_namespaces, |n| n.matches(id.namespace()))
            && both(&source.service_accounts, &source.not_service_accounts, |a| is_account(a, id))
            && both(&source.ip_blocks, &source.not_ip_blocks, |block| block.contains(address))
            && both(&source.remote_ip_blocks, &[], |block| block.contains(address))
    }

    fn principal(&self, wanted: &TextMatch) -> bool {
        wanted.matches(self.request.source.principal())
            || self.subject.alias().is_some_and(|alias| wanted.matches(alias))
    }

    fn operation(&self, operation: &Operation) -> bool {
        let port = self.request.original_destination.port();
        if !both(&operation.ports, &operation.not_ports, |wanted| *wanted == port) {
            return false;
        }
        let Some(http) = self.request.http else {
            let asks_for_http = !(operation.hosts.is_empty()
                && operation.not_hosts.is_empty()
                && operation.methods.is_empty()
                && operation.not_methods.is_empty()
                && operation.paths.is_empty()
                && operation.not_paths.is_empty());
            return !asks_for_http || self.undecidable;
        };
        let request_port = explicit_port(http.authority).unwrap_or(port);
        both(&operation.hosts, &operation.not_hosts, |host| host_matches(host, http.host, request_port))
            && both(&operation.methods, &operation.not_methods, |method| method.matches(http.method))
            && both(&operation.paths, &operation.not_paths, |path| paths::matches(path, http.path))
    }

    fn condition(&self, condition: &Condition) -> bool {
        let text =
            |value: &str| both(&condition.values, &condition.not_values, |wanted| wanted.matches(value));
        let address =
            |ip: IpAddr| both(&condition.nets, &condition.not_nets, |net: &IpRule| net.contains(ip));
        let id = self.request.source;
        match &condition.key {
            Key::Header(name) => {
                let Some(http) = self.request.http else { return self.undecidable };
                // Every line counts for itself, as in Istio: one that matches is enough, for `notValues` too.
                let lines =
                    || http.headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()));
                let any = |wanted: &[TextMatch]| lines().any(|line| wanted.iter().any(|w| w.matches(&line)));
                (condition.values.is_empty() || any(&condition.values)) && !any(&condition.not_values)
            }
            Key::SourceIp => address(self.request.source_address.ip()),
            Key::DestinationIp => address(self.request.original_destination.ip()),
            Key::SourceNamespace => text(id.namespace()),
            Key::SourcePrincipal => {
                both(&condition.values, &condition.not_values, |wanted| self.principal(wanted))
            }
            Key::SourceServiceAccount => text(&format!("{}/{}", id.namespace(), id.service_account())),
            Key::DestinationPort => text(&self.request.original_destination.port().to_string()),
            Key::Sni => match self.request.sni {
                Some(sni) => both(&condition.values, &condition.not_values, |w| w.matches_ignoring_case(sni)),
                None => condition.values.is_empty(),
            },
        }
    }
}

fn is_account(wanted: &ServiceAccount, id: &SpiffeId) -> bool {
    *wanted.namespace == *id.namespace() && *wanted.name == *id.service_account()
}

fn host_matches(rule: &HostRule, host: &str, port: u16) -> bool {
    rule.host.matches_ignoring_case(host)
        && match rule.port {
            None | Some(PolicyPort::Any) => true,
            Some(PolicyPort::Number(wanted)) => wanted == port,
        }
}

/// The port written in an authority, if any.
fn explicit_port(authority: &str) -> Option<u16> {
    let (host, port) = authority.rsplit_once(':')?;
    if host.contains(':') && !host.ends_with(']') {
        return None;
    }
    port.parse().ok()
}
