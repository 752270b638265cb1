//! SPIFFE identities of workloads: `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`.
//!
//! The strict form only (SPIFFE-ID specification §2, and Istio's path layout): no query, no port, no extra path segments,
//! because policies compare the parts.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The identity of a workload. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    trust_domain: Arc<str>,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

/// A string that is no workload identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is not a workload identity: {why} (expected spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>)"
)]
pub struct IdentityError {
    given: String,
    why: &'static str,
}

impl SpiffeId {
    /// Builds an identity from its parts.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, IdentityError> {
        let fail =
            |why| IdentityError { given: format!("{trust_domain}/{namespace}/{service_account}"), why };
        let domain_byte =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if trust_domain.is_empty() || trust_domain.len() > 255 || !trust_domain.bytes().all(domain_byte) {
            return Err(fail("the trust domain must be 1 to 255 of a-z 0-9 . - _"));
        }
        // Kubernetes names (RFC 1123 subdomains) are a subset of SPIFFE path segments.
        let name_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-');
        for (name, why) in [
            (namespace, "the namespace must be 1 to 253 of a-z 0-9 . -"),
            (service_account, "the service account must be 1 to 253 of a-z 0-9 . -"),
        ] {
            if name.is_empty()
                || name.len() > 253
                || name == "."
                || name == ".."
                || !name.bytes().all(name_byte)
            {
                return Err(fail(why));
            }
        }
        Ok(Self {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        })
    }

    /// The trust domain, such as `cluster.local`.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }

    /// The identity as policies write it: without `spiffe://`.
    pub fn principal(&self) -> String {
        format!("{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let fail = |why| IdentityError { given: given.chars().take(300).collect(), why };
        let rest = given.strip_prefix("spiffe://").ok_or_else(|| fail("it does not start with spiffe://"))?;
        let mut parts = rest.split('/');
        let (Some(domain), Some("ns"), Some(namespace), Some("sa"), Some(account), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(fail("its path is not /ns/<namespace>/sa/<service-account>"));
        };
        Self::new(domain, namespace, account).map_err(|e| fail(e.why))
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SpiffeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::SpiffeId;

    #[test]
    fn round_trips_and_gives_the_principal() {
        let id: SpiffeId = "spiffe://cluster.local/ns/default/sa/sleep".parse().unwrap();
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/default/sa/sleep");
        assert_eq!(id.principal(), "cluster.local/ns/default/sa/sleep");
        assert_eq!((id.namespace(), id.service_account()), ("default", "sleep"));
    }

    #[test]
    fn refuses_what_is_not_exactly_a_workload_identity() {
        for bad in [
            "",
            "https://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local/ns/a/sa/",
            "spiffe://cluster.local/ns//sa/b",
            "spiffe://cluster.local:1/ns/a/sa/b",
            "spiffe://Cluster.Local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/b?x",
            "spiffe://cluster.local/ns/../sa/b",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }
}
