//! Which workload a tunnel carries: the `baggage` of its CONNECT request, with the keys of Istio's ztunnel and of OpenTelemetry's
//! semantic conventions.
//!
//! Pure. `node::description` fills it in, `gateway::tunnel` reads it. It describes: who the peer is says its certificate, and
//! nothing that is decided may look here.

use std::{fmt, str::FromStr, sync::Arc};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// What W3C Baggage §3.3.1.3 does not let stand in a value, beside what is not ASCII.
const RESERVED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b',').add(b';').add(b'\\').add(b'%');
/// Longest value: names of Kubernetes objects are DNS subdomains (RFC 1123).
const MAX_VALUE: usize = 253;

const NAMESPACE: &str = "k8s.namespace.name";
const POD_NAME: &str = "k8s.pod.name";
const POD_UID: &str = "k8s.pod.uid";
const SERVICE_NAME: &str = "service.name";
const SERVICE_VERSION: &str = "service.version";
/// What `k8s.KIND.name` names beside workloads.
const NO_WORKLOADS: [&str; 5] = ["cluster", "container", "namespace", "node", "pod"];

/// A workload, described.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.namespace.name`.
    pub namespace: Option<Arc<str>>,
    /// What its processes belong to.
    pub owner: Option<Owner>,
    /// Its pod.
    pub pod: Option<PodName>,
    /// `service.name`: Istio's canonical service.
    pub service: Option<Arc<str>>,
    /// `service.version`: its canonical revision.
    pub version: Option<Arc<str>>,
}

/// An object that makes processes: `k8s.KIND.name`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its kind in lower case: `deployment`, `cronjob`.
    pub kind: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// A pod: `k8s.pod.name` and `k8s.pod.uid`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodName {
    /// Its name.
    pub name: Arc<str>,
    /// Its uid, as the API server has it.
    pub uid: Arc<str>,
}

/// Why a text describes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No `key=value`.
    #[error("it is no list of key=value")]
    List,
    /// A value of a known key that no object has for a name.
    #[error("a value is no name: up to {MAX_VALUE} visible ASCII characters, percent-encoded")]
    Value,
}

impl Baggage {
    /// The workload as Istio's metrics name it: what the processes belong to, or a pod of its own.
    pub fn workload(&self) -> Option<&Arc<str>> {
        self.owner.as_ref().map(|owner| &owner.name).or(self.pod.as_ref().map(|pod| &pod.name))
    }
}

impl fmt::Display for Baggage {
    /// The header's value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, owner, pod, service, version } = self;
        let kind = owner.as_ref().map(|owner| format!("k8s.{}.name", owner.kind));
        // ztunnel takes the last key that names a workload, and a pod for one: the owner comes behind it.
        let members = [
            (NAMESPACE, namespace.as_ref()),
            (POD_NAME, pod.as_ref().map(|pod| &pod.name)),
            (POD_UID, pod.as_ref().map(|pod| &pod.uid)),
            (kind.as_deref().unwrap_or_default(), owner.as_ref().map(|owner| &owner.name)),
            (SERVICE_NAME, service.as_ref()),
            (SERVICE_VERSION, version.as_ref()),
        ];
        let known = members.into_iter().filter_map(|(key, value)| Some((key, value?)));
        for (number, (key, value)) in known.enumerate() {
            let comma = if number == 0 { "" } else { "," };
            write!(f, "{comma}{key}={}", utf8_percent_encode(value, RESERVED))?;
        }
        Ok(())
    }
}

impl FromStr for Baggage {
    type Err = Malformed;

    /// Reads a header's value. Keys that mean nothing here are passed over, as are properties.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut baggage = Self::default();
        let (mut pod, mut uid) = (None, None);
        for member in text.split(',').map(str::trim).filter(|member| !member.is_empty()) {
            let member = member.split_once(';').map_or(member, |(member, _)| member);
            let (key, value) = member.split_once('=').ok_or(Malformed::List)?;
            match key.trim_end() {
                NAMESPACE => baggage.namespace = name(value)?,
                POD_NAME => pod = name(value)?,
                POD_UID => uid = name(value)?,
                SERVICE_NAME => baggage.service = name(value)?,
                SERVICE_VERSION => baggage.version = name(value)?,
                key => {
                    if let Some(kind) = workload_kind(key) {
                        baggage.owner = name(value)?.map(|name| Owner { kind: kind.into(), name });
                    }
                }
            }
        }
        match (pod, uid) {
            (Some(name), Some(uid)) => baggage.pod = Some(PodName { name, uid }),
            // ztunnel's word for a workload of a kind that it has no key for: not the name of one pod.
            (Some(name), None) if baggage.owner.is_none() => {
                baggage.owner = Some(Owner { kind: "pod".into(), name });
            }
            _ => {}
        }
        Ok(baggage)
    }
}

/// `deployment` of `k8s.deployment.name`.
fn workload_kind(key: &str) -> Option<&str> {
    let kind = key.strip_prefix("k8s.")?.strip_suffix(".name")?;
    let is_word = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_lowercase());
    (is_word && !NO_WORKLOADS.contains(&kind)).then_some(kind)
}

/// A value that may be a name; nothing where it is empty, as ztunnel sends what it does not know.
fn name(value: &str) -> Result<Option<Arc<str>>, Malformed> {
    let value = percent_decode_str(value.trim()).decode_utf8().map_err(|_| Malformed::Value)?;
    if value.len() > MAX_VALUE || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Malformed::Value);
    }
    Ok((!value.is_empty()).then(|| value.into()))
}

#[cfg(test)]
mod tests {
    use proptest::{option, prelude::*};

    use super::{Baggage, Malformed, Owner, PodName};

    fn owner(kind: &str, name: &str) -> Owner {
        Owner { kind: kind.into(), name: name.into() }
    }

    #[test]
    fn what_ztunnel_sends_is_read() {
        let sent = "k8s.cluster.name=K,k8s.namespace.name=shop,k8s.deployment.name=cart,service.name=cart,service.version=v1,\
                    cloud.region=,cloud.availability_zone=";
        let baggage: Baggage = sent.parse().unwrap();
        let expected = Baggage {
            namespace: Some("shop".into()),
            owner: Some(owner("deployment", "cart")),
            pod: None,
            service: Some("cart".into()),
            version: Some("v1".into()),
        };
        assert_eq!(baggage, expected);
        let other_kind: Baggage = "k8s.namespace.name=shop,k8s.pod.name=db".parse().unwrap();
        assert_eq!(other_kind.owner, Some(owner("pod", "db")));
        assert_eq!(other_kind.pod, None);
    }

    #[test]
    fn ztunnel_finds_the_owner_behind_the_pod() {
        let baggage = Baggage {
            namespace: Some("shop".into()),
            owner: Some(owner("deployment", "cart")),
            pod: Some(PodName { name: "cart-1".into(), uid: "u".into() }),
            ..Baggage::default()
        };
        let expected = "k8s.namespace.name=shop,k8s.pod.name=cart-1,k8s.pod.uid=u,k8s.deployment.name=cart";
        assert_eq!(baggage.to_string(), expected);
        assert_eq!(baggage.workload().map(|name| &**name), Some("cart"));
        let alone = Baggage { owner: None, ..baggage };
        assert_eq!(alone.workload().map(|name| &**name), Some("cart-1"));
    }

    #[test]
    fn what_stands_around_values_is_passed_over() {
        let text = " k8s.namespace.name = a%2Cb ; secret , k8s.node.name=n,k8s..name=x,other=\u{1},,";
        let baggage: Baggage = text.parse().unwrap();
        assert_eq!(baggage, Baggage { namespace: Some("a,b".into()), ..Baggage::default() });
    }

    #[test]
    fn what_cannot_be_a_name_makes_it_worthless() {
        for (text, why) in [
            ("k8s.namespace.name", Malformed::List),
            ("k8s.namespace.name=a%20b", Malformed::Value),
            ("k8s.pod.name=%ff", Malformed::Value),
            ("k8s.job.name=a%0ab", Malformed::Value),
            (&format!("service.name={}", "x".repeat(254)), Malformed::Value),
        ] {
            assert_eq!(text.parse::<Baggage>(), Err(why), "{text}");
        }
    }

    fn name() -> impl Strategy<Value = String> {
        "[!-~]{1,253}"
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            drop(text.parse::<Baggage>());
        }

        #[test]
        fn anything_like_baggage_is_read_or_refused(
            text in "((k8s\\.(pod|job|namespace)\\.(name|uid)|service\\.name)?[=;,% ]?(%[0-9a-f]{0,2}|\\PC)?){0,9}"
        ) {
            if let Ok(baggage) = text.parse::<Baggage>() {
                let again = baggage.to_string().parse::<Baggage>();
                prop_assert_eq!(again, Ok(baggage));
            }
        }

        #[test]
        fn every_description_round_trips_as_a_header(
            namespace in option::of(name()), owner in option::of(("deployment|job|rollout", name())),
            pod in option::of((name(), name())), service in option::of(name()), version in option::of(name()),
        ) {
            let baggage = Baggage {
                namespace: namespace.map(Into::into),
                owner: owner.map(|(kind, name)| Owner { kind: kind.into(), name: name.into() }),
                pod: pod.map(|(name, uid)| PodName { name: name.into(), uid: uid.into() }),
                service: service.map(Into::into),
                version: version.map(Into::into),
            };
            let text = baggage.to_string();
            prop_assert!(http::HeaderValue::from_str(&text).is_ok_and(|value| value.to_str().is_ok()));
            prop_assert_eq!(text.parse(), Ok(baggage));
        }
    }
}
