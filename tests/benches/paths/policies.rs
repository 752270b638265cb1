//! The authorization that Egret and Envoy are both given: ALLOW, of which one policy matches the workload's requests.

use egret_tests::pki;

use crate::server::HOST;

/// Policies without a large configuration.
const FEW: usize = 5;
/// The methods that may.
pub(crate) const METHODS: [&str; 2] = ["GET", "PUT"];

/// `principal` may [`METHODS`] on `host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Allowed {
    pub(crate) name: String,
    /// Without `spiffe://`.
    pub(crate) principal: String,
    pub(crate) host: String,
}

/// A few policies and so many others. The one that matches is in the middle, for those who try one after the other by name.
pub(crate) fn allowed(others: usize) -> Vec<Allowed> {
    let count = FEW + others;
    let policy = |number: usize| {
        let name = format!("policy-{number:04}");
        if number == count / 2 {
            let principal = pki::WORKLOAD.trim_start_matches("spiffe://").to_owned();
            Allowed { name, principal, host: HOST.to_owned() }
        } else {
            let principal = format!("cluster.local/ns/team-{number}/sa/app");
            Allowed { name, principal, host: format!("service-{number}.example.com") }
        }
    };
    (0..count).map(policy).collect()
}
