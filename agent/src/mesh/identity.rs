//! SPIFFE identities of workloads: `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`.
//!
//! The strict form only (SPIFFE-ID specification §2, and Istio's path layout): no query, no port, no extra path segments,
//! because policies compare the parts.

use std::{cmp::Ordering, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

const SCHEME: &str = "spiffe://";
const NAMESPACE: &str = "/ns/";
const SERVICE_ACCOUNT: &str = "/sa/";

/// The identity of a workload. Cheap to clone, and its parts are there without being put together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    /// All of it.
    text: Arc<str>,
    /// Where the trust domain ends in it, and the namespace.
    ends: (u16, u16),
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
        // Both are below 1,000.
        let trust_domain_end = SCHEME.len() + trust_domain.len();
        let namespace_end = trust_domain_end + NAMESPACE.len() + namespace.len();
        Ok(Self {
            text: format!("{SCHEME}{trust_domain}{NAMESPACE}{namespace}{SERVICE_ACCOUNT}{service_account}")
                .into(),
            ends: (trust_domain_end as u16, namespace_end as u16),
        })
    }

    /// The trust domain, such as `cluster.local`.
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..usize::from(self.ends.0)]
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.text[usize::from(self.ends.0) + NAMESPACE.len()..usize::from(self.ends.1)]
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        &self.text[usize::from(self.ends.1) + SERVICE_ACCOUNT.len()..]
    }

    /// The identity as policies write it: without `spiffe://`.
    pub fn principal(&self) -> &str {
        &self.text[SCHEME.len()..]
    }

    /// What follows the trust domain: `/ns/<namespace>/sa/<service-account>`.
    pub fn path(&self) -> &str {
        &self.text[usize::from(self.ends.0)..]
    }
}

/// By trust domain, then namespace, then service account.
impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> Ordering {
        let [own, others] = [self, other].map(|id| [id.trust_domain(), id.namespace(), id.service_account()]);
        own.cmp(&others)
    }
}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let fail = |why| IdentityError { given: given.chars().take(300).collect(), why };
        let rest = given.strip_prefix(SCHEME).ok_or_else(|| fail("it does not start with spiffe://"))?;
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
        assert_eq!(id.path(), "/ns/default/sa/sleep");
        assert_eq!(
            (id.trust_domain(), id.namespace(), id.service_account()),
            ("cluster.local", "default", "sleep")
        );
    }

    #[test]
    fn orders_by_parts() {
        let id = |namespace| SpiffeId::new("cluster.local", namespace, "x").unwrap();
        assert!(id("a") < id("a-b"), "although `-` comes before the slash that ends the other");
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
