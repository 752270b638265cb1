//! The authorization engine: request + [`Snapshot`](crate::mesh::Snapshot) → [`Decision`].
//!
//! Pure. Called by `gateway` before routing, and by `explain`. Istio's order: CUSTOM (refused when configured), DENY,
//! then ALLOW. Does not answer clients.

mod matching;
mod paths;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use matching::Subject;

use crate::{
    mesh::{ObjectRef, PolicyAction, SpiffeId},
    route::HttpRequest,
};

/// What a policy can look at. `http` is absent for opaque and TLS connections.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The verified caller.
    pub source: &'a SpiffeId,
    /// The caller's address as the gateway sees it.
    pub source_address: SocketAddr,
    /// The address the workload dialled: its port is the destination port of policies.
    pub original_destination: SocketAddr,
    /// The host that this address is synthetic for; for routing, no policy asks for it.
    pub dialled_host: Option<&'a str>,
    /// Server name of a TLS connection that passes through, lower case.
    pub sni: Option<&'a str>,
    /// The HTTP request, normalised.
    pub http: Option<&'a HttpRequest<'a>>,
}

/// The outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Allowed: by the ALLOW policy named, or because no ALLOW policy is in force.
    Allow(Option<PolicyRule>),
    /// Denied: by the DENY policy named, or because ALLOW policies are in force and none matched.
    Deny(Option<PolicyRule>),
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// The AuthorizationPolicy.
    pub policy: ObjectRef,
    /// Index into its `spec.rules`; 0 for a policy that is refused as a whole.
    pub rule: usize,
}

/// Evaluates the policies in force. A policy that is not valid denies what it could have been for.
pub fn evaluate(snapshot: &crate::mesh::Snapshot, request: &Request<'_>) -> Decision {
    if let Some(refused) = snapshot.refused_policies.first() {
        return Decision::Deny(Some(PolicyRule { policy: refused.object.clone(), rule: 0 }));
    }
    let subject = Subject::new(request, &snapshot.settings.trust_domain);
    let known = (request.source, request.http.map(|http| http.host));
    let first_match = |action: PolicyAction| {
        let (policy, rule) = snapshot.policies.first(action, known, |rule| subject.matches(rule, action))?;
        Some(PolicyRule { policy: policy.object.clone(), rule })
    };
    if let Some(denied) = first_match(PolicyAction::Custom).or_else(|| first_match(PolicyAction::Deny)) {
        return Decision::Deny(Some(denied));
    }
    if !snapshot.policies.has(PolicyAction::Allow) {
        return Decision::Allow(None);
    }
    match first_match(PolicyAction::Allow) {
        Some(allowed) => Decision::Allow(Some(allowed)),
        None => Decision::Deny(None),
    }
}

/// The decision as one sentence for an operator.
pub fn describe(snapshot: &crate::mesh::Snapshot, decision: &Decision) -> String {
    let action = |object: &ObjectRef| {
        snapshot.policies.iter().find(|policy| policy.object == *object).map(|policy| policy.action)
    };
    match decision {
        Decision::Allow(None) => "allowed: no ALLOW policy is in force and no DENY policy matches".to_owned(),
        Decision::Allow(Some(by)) => format!("allowed by rule {} of {}", by.rule, by.policy),
        Decision::Deny(None) => {
            "denied: ALLOW policies are in force and none of them matches; add a rule that does".to_owned()
        }
        Decision::Deny(Some(by)) => match action(&by.policy) {
            Some(PolicyAction::Custom) => {
                format!("denied: {} has action CUSTOM, and Egret has no external authorizers", by.policy)
            }
            Some(_) => format!("denied by rule {} of {}", by.rule, by.policy),
            None => format!("denied: {} is not valid and has no last good version; correct it", by.policy),
        },
    }
}
