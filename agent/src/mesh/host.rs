//! Host names and Istio's wildcard rules, and a map keyed by them that answers most specific first.
//!
//! Names compare as lower-case ASCII, byte for byte: no Unicode folding, so A-labels never equal something else.

use std::{collections::HashMap, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A host, or a wildcard for hosts.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// Exactly this host, lower case.
    Exact(Arc<str>),
    /// `*.example.com`: every host that ends in `.example.com`, of any depth; kept with the leading dot.
    Suffix(Arc<str>),
    /// `*`.
    Any,
}

/// Text that is no host name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a host name: {why}")]
pub struct HostError {
    given: String,
    why: &'static str,
}

impl HostPattern {
    /// Parses a host or wildcard; upper case is folded, one trailing dot dropped. A port is refused.
    pub fn parse(given: &str) -> Result<Self, HostError> {
        let fail = |why| HostError { given: given.to_owned(), why };
        if given == "*" {
            return Ok(Self::Any);
        }
        let lower = given.to_ascii_lowercase();
        if let Some(rest) = lower.strip_prefix("*.") {
            check_name(rest).map_err(fail)?;
            return Ok(Self::Suffix(lower[1..].into()));
        }
        let name = lower.strip_suffix('.').unwrap_or(&lower);
        if let Some(inner) = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'))
            && inner.parse::<std::net::Ipv6Addr>().is_ok()
        {
            return Ok(Self::Exact(name.into()));
        }
        check_name(name).map_err(fail)?;
        Ok(Self::Exact(name.into()))
    }

    /// Whether `host` (lower case, no port) is meant.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
            Self::Any => true,
        }
    }

    /// Whether some host is meant by both: the test between the hosts of a Gateway server and of a VirtualService.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::Exact(a), Self::Exact(b)) => a == b,
            (Self::Exact(host), pattern) | (pattern, Self::Exact(host)) => pattern.matches(host),
            (Self::Suffix(a), Self::Suffix(b)) => a.ends_with(&**b) || b.ends_with(&**a),
        }
    }

    /// Orders by how specific: exact over suffix, longer suffix over shorter, `*` last.
    pub fn specificity(&self) -> (u8, usize) {
        match self {
            Self::Exact(name) => (2, name.len()),
            Self::Suffix(suffix) => (1, suffix.len()),
            Self::Any => (0, 0),
        }
    }
}

/// As text.
impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// `2130706433` or `0177.0.0.1` would be taken for addresses by some resolvers, and `[2001:db8::1]` is one.
pub fn looks_like_address(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or(host);
    last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x") || host.starts_with('[')
}

/// The host of an authority: `test.com:80` is `test.com`; what is no port stays.
pub fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.ends_with(':') => host,
        _ => authority,
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > 253 {
        return Err("it must have 1 to 253 characters");
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err("every label must have 1 to 63 characters");
        }
        if label.contains('*') {
            return Err("`*` may only stand for everything before the first dot, as in *.example.com");
        }
        if label.contains(':') {
            return Err("a port does not belong here; write it where ports are written");
        }
        if !label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
            return Err("labels are made of a-z 0-9 - _");
        }
    }
    Ok(())
}

/// Values by host pattern.
#[derive(Clone, Debug)]
pub struct HostMap<V> {
    exact: HashMap<Arc<str>, V>,
    suffix: HashMap<Arc<str>, V>,
    any: Option<V>,
}

impl<V> Default for HostMap<V> {
    fn default() -> Self {
        Self { exact: HashMap::new(), suffix: HashMap::new(), any: None }
    }
}

impl<V> HostMap<V> {
    /// The value of exactly this pattern, created when missing.
    pub fn entry(&mut self, pattern: &HostPattern) -> &mut V
    where
        V: Default,
    {
        match pattern {
            HostPattern::Exact(name) => self.exact.entry(Arc::clone(name)).or_default(),
            HostPattern::Suffix(suffix) => self.suffix.entry(Arc::clone(suffix)).or_default(),
            HostPattern::Any => self.any.get_or_insert_with(V::default),
        }
    }

    /// The values whose pattern means `host`, most specific first.
    pub fn candidates<'m>(&'m self, host: &str) -> impl Iterator<Item = &'m V> {
        self.ranked(host).map(|(_, value)| value)
    }

    /// [`Self::candidates`], each with how specific its pattern is.
    pub(crate) fn ranked<'m>(&'m self, host: &str) -> impl Iterator<Item = ((u8, usize), &'m V)> {
        let exact = self.exact.get(host).map(|value| ((2, host.len()), value));
        let suffixes = host
            .char_indices()
            .filter(|(at, c)| *c == '.' && *at > 0)
            .filter_map(|(at, _)| Some(((1, host.len() - at), self.suffix.get(&host[at..])?)));
        exact.into_iter().chain(suffixes).chain(self.any.as_ref().map(|value| ((0, 0), value)))
    }

    /// Every value, in no order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.exact.values().chain(self.suffix.values()).chain(self.any.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::{HostMap, HostPattern, without_port};

    #[test]
    fn wildcards_follow_istio() {
        let wild = HostPattern::parse("*.Example.com").unwrap();
        for (host, expected) in [
            ("example.com", false),
            ("a.example.com", true),
            ("a.b.example.com", true),
            ("aexample.com", false),
        ] {
            assert_eq!(wild.matches(host), expected, "{host}");
        }
        for bad in ["", "*.", "*com", "a.*.com", "a b.com", "test.com:80", "a..b", "http://a.com"] {
            assert!(HostPattern::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(HostPattern::parse("Test.COM.").unwrap().to_string(), "test.com");
    }

    #[test]
    fn candidates_come_most_specific_first() {
        let mut map: HostMap<Vec<&str>> = HostMap::default();
        for pattern in ["*", "*.com", "*.b.com", "a.b.com"] {
            map.entry(&HostPattern::parse(pattern).unwrap()).push(pattern);
        }
        let found: Vec<_> = map.candidates("a.b.com").flatten().copied().collect();
        assert_eq!(found, ["a.b.com", "*.b.com", "*.com", "*"]);
        let found: Vec<_> = map.candidates("b.com").flatten().copied().collect();
        assert_eq!(found, ["*.com", "*"]);
        for (specificity, patterns) in map.ranked("a.b.com") {
            assert_eq!(HostPattern::parse(patterns[0]).unwrap().specificity(), specificity);
        }
    }

    #[test]
    fn a_port_is_not_of_the_name() {
        for (authority, host) in [
            ("test.com:80", "test.com"),
            ("test.com", "test.com"),
            ("[2001:db8::1]:443", "[2001:db8::1]"),
            ("[2001:db8::1]", "[2001:db8::1]"),
            ("test.com:http", "test.com:http"),
        ] {
            assert_eq!(without_port(authority), host, "{authority}");
        }
    }
}
