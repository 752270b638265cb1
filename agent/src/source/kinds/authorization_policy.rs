//! Reads an AuthorizationPolicy. What Istio drops or reads as "everything" when it is empty or cannot be parsed makes the
//! whole policy invalid here.

use std::sync::Arc;

use http::HeaderName;

use super::{Meta, match_labels};
use crate::{
    mesh::{
        AuthorizationPolicy, Condition, HostRule, IpRule, Key, Operation, PathRule, PathTemplate,
        PolicyAction, PolicyPort, Rule, ServiceAccount, Source, TemplatePart, TextMatch,
    },
    source::{
        codes,
        fields::{Field, Fields},
        report::Severity,
        scalars,
    },
};

/// `None`: without effect, or not valid.
pub(super) fn read(meta: &Meta, mut spec: Fields<'_>) -> Option<AuthorizationPolicy> {
    let own = &meta.object.namespace;
    let selector = match_labels(spec.take("selector")).unwrap_or_default();
    let action = spec.take("action").map_or(Some(Some(PolicyAction::Allow)), |field| {
        field.one_of(&[
            ("ALLOW", Some(PolicyAction::Allow)),
            ("DENY", Some(PolicyAction::Deny)),
            ("CUSTOM", Some(PolicyAction::Custom)),
            ("AUDIT", None),
        ])
    });
    let of = spec.of().clone();
    let rules: Vec<Rule> = match spec.raw("rules") {
        Some(field) => field.items().iter().filter_map(|item| rule(item, own)).collect(),
        None => Vec::new(),
    };
    if rules.is_empty() && matches!(action, Some(Some(PolicyAction::Deny | PolicyAction::Custom))) {
        of.refuse("a policy with this action needs rules; an empty rule `{}` matches everything");
    }
    spec.ignore(&["provider"]);
    let targets = spec.take("targetRef").or(spec.take("targetRefs"));
    spec.finish();
    let inert = dry_run(meta, &of);
    if let Some(targets) = &targets {
        targets.report(
            Severity::Warning,
            codes::INERT,
            "a policy with targetRefs is for waypoints and does not apply to the egress gateway",
            Some("use selector.matchLabels".to_owned()),
        );
    }
    let action = action.flatten()?;
    if inert || targets.is_some() {
        return None;
    }
    Some(AuthorizationPolicy { object: meta.object.clone(), selector, action, rules })
}

/// The annotation takes any spelling of a boolean that Go does.
fn dry_run(meta: &Meta, of: &Field<'_>) -> bool {
    match meta.annotations.get("istio.io/dry-run").map(String::as_str) {
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => true,
        None | Some("0" | "f" | "F" | "false" | "FALSE" | "False") => false,
        Some(other) => {
            of.refuse(format!("annotation istio.io/dry-run is {other:?}, which is neither true nor false"));
            false
        }
    }
}

/// A list that is given must not be empty, nor hold empty values.
fn list<'n>(fields: &mut Fields<'n>, name: &'static str) -> Vec<Field<'n>> {
    let Some(field) = fields.raw(name) else { return Vec::new() };
    let items = field.items();
    if items.is_empty() {
        field.report(
            Severity::Error,
            codes::VALUE,
            "is empty, and Istio reads that as \"everything\"",
            Some("remove the field, or list what is meant".to_owned()),
        );
    }
    for item in items.iter().filter(|item| item.node.text() == Some("")) {
        item.refuse("is an empty value");
    }
    items
}

fn rule(field: &Field<'_>, own: &Arc<str>) -> Option<Rule> {
    let mut fields = field.fields()?;
    let from = list(&mut fields, "from").iter().filter_map(|item| inner(item, "source")).collect::<Vec<_>>();
    let from = from.into_iter().map(|fields| source(fields, own)).collect();
    let to = list(&mut fields, "to").iter().filter_map(|item| inner(item, "operation")).collect::<Vec<_>>();
    let to = to.into_iter().map(operation).collect();
    let when = list(&mut fields, "when").iter().filter_map(|item| condition(item, own)).collect();
    fields.finish();
    Some(Rule { from, to, when })
}

/// The object behind `source` or `operation`, which must not be empty.
fn inner<'n>(item: &Field<'n>, name: &'static str) -> Option<Fields<'n>> {
    let mut fields = item.fields()?;
    let field = fields.need(name);
    fields.finish();
    let field = field?;
    if field.entries().is_empty() {
        field.refuse("is empty");
        return None;
    }
    field.fields()
}

fn texts(fields: &mut Fields<'_>, name: &'static str) -> Vec<TextMatch> {
    list(fields, name).iter().filter_map(|item| Some(TextMatch::policy(&item.text()?))).collect()
}

fn parsed<T>(
    fields: &mut Fields<'_>,
    name: &'static str,
    parser: impl Fn(&str) -> Result<T, String>,
) -> Vec<T> {
    list(fields, name).iter().filter_map(|item| item.parse(&parser)).collect()
}

fn source(mut fields: Fields<'_>, own: &Arc<str>) -> Source {
    let account = |text: &str| service_account(text, own);
    let mut not_ip_blocks = parsed(&mut fields, "notIpBlocks", ip_rule);
    not_ip_blocks.extend(parsed(&mut fields, "notRemoteIpBlocks", ip_rule));
    let mut source = Source {
        principals: texts(&mut fields, "principals"),
        not_principals: texts(&mut fields, "notPrincipals"),
        namespaces: parsed(&mut fields, "namespaces", namespace),
        not_namespaces: parsed(&mut fields, "notNamespaces", namespace),
        service_accounts: parsed(&mut fields, "serviceAccounts", account),
        not_service_accounts: parsed(&mut fields, "notServiceAccounts", account),
        ip_blocks: parsed(&mut fields, "ipBlocks", ip_rule),
        remote_ip_blocks: parsed(&mut fields, "remoteIpBlocks", ip_rule),
        not_ip_blocks,
        request_principals: false,
    };
    for name in ["requestPrincipals", "notRequestPrincipals"] {
        source.request_principals |= !list(&mut fields, name).is_empty();
    }
    let by_account = !source.service_accounts.is_empty() || !source.not_service_accounts.is_empty();
    let by_name = !source.principals.is_empty() || !source.namespaces.is_empty();
    if by_account && by_name {
        fields.of().refuse("serviceAccounts cannot be combined with namespaces or principals");
    }
    fields.finish();
    source
}

fn operation(mut fields: Fields<'_>) -> Operation {
    let operation = Operation {
        hosts: parsed(&mut fields, "hosts", host_rule),
        not_hosts: parsed(&mut fields, "notHosts", host_rule),
        ports: parsed(&mut fields, "ports", port),
        not_ports: parsed(&mut fields, "notPorts", port),
        methods: texts(&mut fields, "methods"),
        not_methods: texts(&mut fields, "notMethods"),
        paths: parsed(&mut fields, "paths", path_rule),
        not_paths: parsed(&mut fields, "notPaths", path_rule),
    };
    fields.finish();
    operation
}

fn service_account(text: &str, own: &Arc<str>) -> Result<ServiceAccount, String> {
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Arc::from(namespace), name),
        None => (Arc::clone(own), text),
    };
    if name.is_empty() || name.contains(['/', '*']) || namespace.is_empty() || namespace.contains('*') {
        return Err(format!(
            "{text:?} is neither a service account nor namespace/service-account; wildcards are not allowed"
        ));
    }
    Ok(ServiceAccount { namespace, name: name.into() })
}

/// A namespace; here Istio takes a `*` in any place.
fn namespace(text: &str) -> Result<TextMatch, String> {
    if text.trim_start_matches('*').trim_end_matches('*').contains('*') {
        let pattern = text.split('*').map(regex::escape).collect::<Vec<_>>().join(".*");
        return TextMatch::regex(&pattern).map_err(|error| error.to_string());
    }
    Ok(TextMatch::policy(text))
}

fn ip_rule(text: &str) -> Result<IpRule, String> {
    scalars::network(text).map(IpRule)
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_| format!("{text:?} is not a port number"))
}

fn host_rule(text: &str) -> Result<HostRule, String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, digits)) if !digits.contains(']') && !host.is_empty() => {
            let port = if digits == "*" {
                PolicyPort::Any
            } else {
                PolicyPort::Number(
                    digits.parse().map_err(|_| format!("{text:?} does not end in a port number"))?,
                )
            };
            (host, Some(port))
        }
        _ => (text, None),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() {
        return Err(format!("{text:?} names no host"));
    }
    Ok(HostRule { host: TextMatch::policy(host), port })
}

fn path_rule(text: &str) -> Result<PathRule, String> {
    if !text.contains(['{', '}']) {
        return Ok(PathRule::Text(TextMatch::policy(text)));
    }
    let fail =
        || format!("{text:?} is not a path template; between slashes there may be a text, {{*}} or {{**}}");
    let rest = text.strip_prefix('/').ok_or_else(fail)?;
    let parts = rest.split('/').map(|part| match part {
        "{*}" => Ok(TemplatePart::One),
        "{**}" => Ok(TemplatePart::Many),
        other if other.contains(['{', '}', '*']) => Err(fail()),
        other => Ok(TemplatePart::Literal(other.into())),
    });
    Ok(PathRule::Template(PathTemplate(parts.collect::<Result<_, _>>()?)))
}

fn condition(field: &Field<'_>, own: &Arc<str>) -> Option<Condition> {
    let mut fields = field.fields()?;
    let key = fields.need("key").and_then(|field| field.parse(key));
    let (values, not_values) = (list(&mut fields, "values"), list(&mut fields, "notValues"));
    fields.finish();
    let key = key?;
    if values.is_empty() && not_values.is_empty() {
        field.refuse("needs values or notValues");
    }
    let mut condition =
        Condition { values: Vec::new(), not_values: Vec::new(), nets: Vec::new(), not_nets: Vec::new(), key };
    match condition.key {
        Key::SourceIp | Key::DestinationIp => {
            condition.nets = values.iter().filter_map(|f| f.parse(ip_rule)).collect();
            condition.not_nets = not_values.iter().filter_map(|f| f.parse(ip_rule)).collect();
        }
        _ => {
            let text = |field: &Field<'_>| match condition.key {
                Key::DestinationPort => field.parse(port).map(|n| TextMatch::Exact(n.to_string().into())),
                Key::SourceServiceAccount => field
                    .parse(|text| service_account(text, own))
                    .map(|a| TextMatch::Exact(format!("{}/{}", a.namespace, a.name).into())),
                _ => Some(TextMatch::policy(&field.text()?)),
            };
            let found =
                (values.iter().filter_map(text).collect(), not_values.iter().filter_map(text).collect());
            (condition.values, condition.not_values) = found;
        }
    }
    Some(condition)
}

fn key(text: &str) -> Result<Key, String> {
    Ok(match text {
        "source.ip" | "remote.ip" => Key::SourceIp,
        "source.namespace" => Key::SourceNamespace,
        "source.principal" => Key::SourcePrincipal,
        "source.serviceAccount" => Key::SourceServiceAccount,
        "destination.ip" => Key::DestinationIp,
        "destination.port" => Key::DestinationPort,
        "connection.sni" => Key::Sni,
        _ => {
            let name = text.strip_prefix("request.headers[").and_then(|rest| rest.strip_suffix(']'));
            let name = name.and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok());
            return name.map(Key::Header).ok_or_else(|| {
                format!("{text:?} is not a key Egret can decide on; known are request.headers[NAME], source.ip, remote.ip, source.namespace, source.principal, source.serviceAccount, destination.ip, destination.port, connection.sni")
            });
        }
    })
}
