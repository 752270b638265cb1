//! Values that several kinds share: hosts, names of gateways, durations, networks, string matches.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

use super::fields::Field;
use crate::mesh::{ExportTo, TextMatch};

const DNS_PORT: u16 = 53;

/// `exportTo`, with `.` resolved. No entry means everyone.
pub(super) fn export_to(field: Option<Field<'_>>, own: &Arc<str>) -> ExportTo {
    let Some(field) = field else { return ExportTo::All };
    let names = field.texts();
    if names.is_empty() || names.iter().any(|name| name == "*") {
        return ExportTo::All;
    }
    ExportTo::Namespaces(
        names
            .iter()
            .filter(|name| *name != "~")
            .map(|name| if name == "." { Arc::clone(own) } else { name.as_str().into() })
            .collect(),
    )
}

/// A host of a rule or destination: a short name means a service of the object's own namespace.
pub(super) fn qualified(host: &str, namespace: &str) -> String {
    let host = host.to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    if host.contains('.') || host.contains('*') || host.contains(':') {
        host.to_owned()
    } else {
        format!("{host}.{namespace}.svc.cluster.local")
    }
}

/// A duration as Kubernetes writes it (Go's `time.ParseDuration`): `10s`, `1.5s`, `1m30s`, `100ms`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let fail = || format!("{text:?} is not a duration such as 10s, 1m30s or 100ms");
    let mut rest = text;
    let mut seconds = 0.0_f64;
    if rest.is_empty() {
        return Err(fail());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(fail)?;
        let number: f64 = rest[..digits].parse().map_err(|_| fail())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(fail()),
        };
        seconds += number * unit;
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| fail())
}

/// An address or a network; host bits are cleared.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let fail = || format!("{text:?} is not an IP address or CIDR range");
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    text.parse::<IpNet>().map(|net| net.trunc()).map_err(|_| fail())
}

/// A DNS resolver: an address, with a port where it is not 53.
pub(super) fn resolver(text: &str) -> Result<SocketAddr, String> {
    text.parse::<IpAddr>()
        .map(|address| SocketAddr::new(address, DNS_PORT))
        .or_else(|_| text.parse())
        .map_err(|_| {
            format!("{text:?} is not an IP address such as 192.0.2.53, nor one with a port (192.0.2.53:5353)")
        })
}

/// A string match as written.
pub(super) enum StringMatch {
    /// The empty object, which asks for presence where that has a meaning.
    Anything,
    /// `exact`, `prefix` or `regex`.
    Text(TextMatch),
}

/// `exact`, `prefix` or `regex`, at most one.
pub(super) fn string_match(field: &Field<'_>) -> Option<StringMatch> {
    let mut fields = field.fields()?;
    let exact = fields.take("exact");
    let prefix = fields.take("prefix");
    let regex = fields.take("regex");
    fields.finish();
    match (exact, prefix, regex) {
        (Some(text), None, None) => Some(StringMatch::Text(TextMatch::Exact(text.text()?.into()))),
        (None, Some(text), None) => Some(StringMatch::Text(TextMatch::Prefix(text.text()?.into()))),
        (None, None, Some(text)) => Some(StringMatch::Text(text.parse(TextMatch::regex)?)),
        (None, None, None) => Some(StringMatch::Anything),
        _ => {
            field.refuse("only one of exact, prefix and regex may be given");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{duration, network, qualified};

    #[test]
    fn durations() {
        for (text, millis) in [("10s", 10_000), ("1.5s", 1500), ("1m30s", 90_000), ("100ms", 100), ("0s", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "10", "s", "-1s", "1x", "1s2"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_and_networks() {
        assert_eq!(qualified("gw", "istio-system"), "gw.istio-system.svc.cluster.local");
        assert_eq!(qualified("Test.COM.", "x"), "test.com");
        assert_eq!(network("10.1.3.5/24").unwrap().to_string(), "10.1.3.0/24");
        assert!(network("10.1.3.5/33").is_err() && network("bad").is_err());
    }
}
