//! AuthorizationPolicies in force, by what their rules ask for: finding the first rule that matches takes no longer among thousands
//! of policies than among a few.
//!
//! `compile` makes it once per configuration, `authz` asks it. It only says which rules are worth a try, and in which order: whether
//! one matches is up to whoever asks.

use std::{collections::HashMap, sync::Arc};

use super::{
    AuthorizationPolicy, Condition, HostRule, Key, PolicyAction, Rule, ServiceAccount, Source, SpiffeId,
    TextMatch,
};

/// The policies in force, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policies {
    all: Vec<Arc<AuthorizationPolicy>>,
    allow: Rules,
    deny: Rules,
    custom: Rules,
}

impl Policies {
    /// From policies in order of precedence.
    pub(crate) fn new(all: Vec<Arc<AuthorizationPolicy>>) -> Self {
        let of = |action| Rules::new(&all, action);
        let [allow, deny, custom] = [PolicyAction::Allow, PolicyAction::Deny, PolicyAction::Custom].map(of);
        Self { all, allow, deny, custom }
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<AuthorizationPolicy>> {
        self.all.iter()
    }

    /// Whether there is one with this action, with rules or without.
    pub(crate) fn has(&self, action: PolicyAction) -> bool {
        self.of(action).in_force
    }

    /// The first policy with this action that has a rule which `matches`, and the index of its first one. `host` is that of the
    /// HTTP request, if there is one.
    pub(crate) fn first(
        &self,
        action: PolicyAction,
        (source, host): (&SpiffeId, Option<&str>),
        matches: impl Fn(&Rule) -> bool,
    ) -> Option<(&AuthorizationPolicy, usize)> {
        let rules = self.of(action);
        let mut first: Option<u32> = None;
        rules.worth_trying(action, source, host, |candidates| {
            let earlier = |at: &u32| first.is_none_or(|first| *at < first);
            let found = candidates.iter().copied().take_while(earlier).find(|at| matches(rules.rule(*at)));
            first = found.or(first);
        });
        first.map(|at| {
            let (policy, index) = &rules.order[at as usize];
            (&**policy, *index)
        })
    }

    fn of(&self, action: PolicyAction) -> &Rules {
        match action {
            PolicyAction::Allow => &self.allow,
            PolicyAction::Deny => &self.deny,
            PolicyAction::Custom => &self.custom,
        }
    }
}

/// What a rule is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Field {
    /// `/ns/NAMESPACE/sa/NAME`, whatever the trust domain.
    Account,
    /// Namespace of the workload.
    Namespace,
    /// Host, lower case.
    Host,
    /// End of a host, from a dot on, lower case.
    Domain,
}

/// A value of a field without which a rule cannot match, unless it has another such value.
type Needed = (Field, Box<str>);

/// The rules of all policies with one action.
#[derive(Clone, Debug, Default)]
struct Rules {
    in_force: bool,
    /// Policy, and index of the rule in it, in the order in which they are tried; lists of rules hold indices of this, ascending.
    order: Vec<(Arc<AuthorizationPolicy>, usize)>,
    /// By field and value.
    found: [HashMap<Box<str>, Vec<u32>>; 4],
    /// Those that are found by host or domain.
    by_host: Vec<u32>,
    /// Those that anything could match.
    others: Vec<u32>,
}

impl Rules {
    fn new(policies: &[Arc<AuthorizationPolicy>], action: PolicyAction) -> Self {
        let mut rules = Self::default();
        for policy in policies.iter().filter(|policy| policy.action == action) {
            rules.in_force = true;
            rules.order.extend((0..policy.rules.len()).map(|index| (Arc::clone(policy), index)));
        }
        let needs: Vec<Vec<Vec<Needed>>> =
            rules.order.iter().map(|(policy, index)| needs(&policy.rules[*index])).collect();
        let mut sizes: HashMap<&Needed, usize> = HashMap::new();
        for needed in needs.iter().flatten().flatten() {
            *sizes.entry(needed).or_default() += 1;
        }
        // By whatever fewer others are found by: where all are for one workload that is the host, and the other way round.
        let crowd = |needed: &&Vec<Needed>| needed.iter().map(|needed| sizes[needed]).max();
        for (at, needs) in (0..).zip(&needs) {
            let Some(needed) = needs.iter().min_by_key(crowd) else {
                rules.others.push(at);
                continue;
            };
            for (field, value) in needed {
                add(rules.found[*field as usize].entry(value.clone()).or_default(), at);
                if matches!(field, Field::Host | Field::Domain) {
                    add(&mut rules.by_host, at);
                }
            }
        }
        rules
    }

    fn rule(&self, at: u32) -> &Rule {
        let (policy, index) = &self.order[at as usize];
        &policy.rules[*index]
    }

    /// Hands out lists, each in order, with all rules in them that could match; the shortest first.
    fn worth_trying(
        &self,
        action: PolicyAction,
        source: &SpiffeId,
        host: Option<&str>,
        mut try_all: impl FnMut(&[u32]),
    ) {
        let mut find = |field: Field, value: &str| {
            if let Some(list) = self.found[field as usize].get(value) {
                try_all(list);
            }
        };
        find(Field::Account, source.path());
        find(Field::Namespace, source.namespace());
        match host {
            Some(host) => {
                let lower =
                    host.bytes().any(|byte| byte.is_ascii_uppercase()).then(|| host.to_ascii_lowercase());
                let host = lower.as_deref().unwrap_or(host);
                find(Field::Host, host);
                if !self.found[Field::Domain as usize].is_empty() {
                    host.match_indices('.').for_each(|(at, _)| find(Field::Domain, &host[at..]));
                }
            }
            // Which host it would have been is not known, and what is not known counts as met where that denies.
            None if action != PolicyAction::Allow => try_all(&self.by_host),
            None => {}
        }
        try_all(&self.others);
    }
}

/// A rule may be found by several values.
fn add(list: &mut Vec<u32>, at: u32) {
    if list.last() != Some(&at) {
        list.push(at);
    }
}

/// Each of the parts of a rule that it can be found by: one of the part's values is needed.
fn needs(rule: &Rule) -> Vec<Vec<Needed>> {
    let of_all =
        |parts: Option<Vec<Vec<Needed>>>| parts.filter(|parts| !parts.is_empty()).map(|p| p.concat());
    let from = of_all(rule.from.iter().map(source).collect());
    let to = of_all(rule.to.iter().map(|operation| each(&operation.hosts, host)).collect());
    [from, to].into_iter().flatten().chain(rule.when.iter().filter_map(condition)).collect()
}

fn source(source: &Source) -> Option<Vec<Needed>> {
    each(&source.principals, principal)
        .or_else(|| each(&source.service_accounts, account))
        .or_else(|| each(&source.namespaces, namespace))
}

fn condition(condition: &Condition) -> Option<Vec<Needed>> {
    match condition.key {
        Key::SourcePrincipal => each(&condition.values, principal),
        Key::SourceNamespace => each(&condition.values, namespace),
        _ => None,
    }
}

/// What each of several values needs; nothing where one of them needs nothing, or where there is none.
fn each<T>(values: &[T], need: impl Fn(&T) -> Option<Needed>) -> Option<Vec<Needed>> {
    values.iter().map(need).collect::<Option<Vec<_>>>().filter(|needed| !needed.is_empty())
}

/// `TRUST-DOMAIN/ns/NAMESPACE/sa/NAME`, of which no part has a slash in it.
fn principal(wanted: &TextMatch) -> Option<Needed> {
    let from_first_slash = |text: &str| text.find('/').map_or(text, |at| &text[at..]).into();
    match wanted {
        TextMatch::Exact(text) => Some((Field::Account, from_first_slash(text))),
        // `*/ns/NAMESPACE/sa/NAME`
        TextMatch::Suffix(text) if text.matches('/').count() == 4 => {
            Some((Field::Account, from_first_slash(text)))
        }
        // `TRUST-DOMAIN/ns/NAMESPACE/*`
        TextMatch::Prefix(text) => {
            let mut parts = text.split('/').skip(2);
            let (namespace, _) = (parts.next()?, parts.next()?);
            Some((Field::Namespace, namespace.into()))
        }
        TextMatch::Suffix(_) | TextMatch::Present | TextMatch::Regex(_) => None,
    }
}

#[expect(clippy::unnecessary_wraps, reason = "as the others")]
fn account(wanted: &ServiceAccount) -> Option<Needed> {
    Some((Field::Account, format!("/ns/{}/sa/{}", wanted.namespace, wanted.name).into()))
}

fn namespace(wanted: &TextMatch) -> Option<Needed> {
    match wanted {
        TextMatch::Exact(text) => Some((Field::Namespace, (**text).into())),
        _ => None,
    }
}

fn host(wanted: &HostRule) -> Option<Needed> {
    match &wanted.host {
        TextMatch::Exact(text) => Some((Field::Host, text.to_ascii_lowercase().into())),
        TextMatch::Suffix(text) if text.starts_with('.') => {
            Some((Field::Domain, text.to_ascii_lowercase().into()))
        }
        _ => None,
    }
}
