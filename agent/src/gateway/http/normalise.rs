//! One spelling per path and per host: what authorization and routing compare, and what is sent upstream, is the same
//! string.
//!
//! Pure; `head` calls it once per request. The order of the steps is Envoy's: escaped slashes, RFC 3986 (unreserved
//! characters, backslashes, dot segments), then repeated slashes. Nothing is decoded twice.

use std::{borrow::Cow, net::Ipv6Addr};

/// How far paths are normalised (MeshConfig `pathNormalization.normalization`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PathNormalisation {
    /// Not at all.
    None,
    /// RFC 3986, and backslashes to slashes: Istio's default.
    Base,
    /// The same, then repeated slashes become one.
    MergeSlashes,
    /// `%2F` and `%5C` are decoded first. Egret's default: a server that decodes them sees the path that was authorized.
    #[default]
    DecodeAndMergeSlashes,
}

/// The normalised form of `path` (without query), or what is wrong with it.
pub fn path(path: &str, mode: PathNormalisation) -> Result<Cow<'_, str>, &'static str> {
    if !path.starts_with('/') {
        return Err("the request target is neither a path nor an absolute URI");
    }
    check_escapes(path)?;
    if mode == PathNormalisation::None || is_normal(path) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(path, mode == PathNormalisation::DecodeAndMergeSlashes);
    let mut normal = remove_dot_segments(&decoded);
    if mode != PathNormalisation::Base {
        let mut previous = 0;
        normal.retain(|&byte| {
            let repeated = byte == b'/' && previous == b'/';
            previous = byte;
            !repeated
        });
    }
    // Only ASCII bytes were removed or replaced by ASCII, so what was UTF-8 still is.
    String::from_utf8(normal).map(Cow::Owned).map_err(|_| "the path is not UTF-8")
}

/// Whether no step can change the path: no escape, backslash, empty or dot segment.
fn is_normal(path: &str) -> bool {
    !path.bytes().any(|byte| byte == b'%' || byte == b'\\') && !path.contains("//") && !path.contains("/.")
}

fn check_escapes(path: &str) -> Result<(), &'static str> {
    let mut rest = path.as_bytes();
    while let Some(at) = rest.iter().position(|&byte| byte == b'%') {
        match (rest.get(at + 1).copied().and_then(hex), rest.get(at + 2).copied().and_then(hex)) {
            (Some(0), Some(0)) => return Err("the path contains an escaped NUL"),
            (Some(_), Some(_)) => rest = &rest[at + 3..],
            _ => return Err("the path contains a malformed escape"),
        }
    }
    Ok(())
}

fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

/// Decodes escaped unreserved characters (RFC 3986 §2.3), and `/` and `\` where `slashes`; backslashes become slashes.
fn decode(path: &str, slashes: bool) -> Vec<u8> {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => out.push(b'/'),
            b'%' => {
                let value = match (
                    bytes.get(at + 1).copied().and_then(hex),
                    bytes.get(at + 2).copied().and_then(hex),
                ) {
                    (Some(high), Some(low)) => high << 4 | low,
                    _ => b'%',
                };
                match value {
                    b'/' | b'\\' if slashes => out.push(b'/'),
                    b'-' | b'.' | b'_' | b'~' => out.push(value),
                    value if value.is_ascii_alphanumeric() => out.push(value),
                    _ => out.extend_from_slice(&bytes[at..at + 3]),
                }
                at += 2;
            }
            byte => out.push(byte),
        }
        at += 1;
    }
    out
}

/// RFC 3986 §5.2.4. A segment `..;x` is a dot segment, as in Envoy: servers that strip `;` parameters see `..`.
fn remove_dot_segments(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<&[u8]> = Vec::new();
    let mut segments = path[1..].split(|&byte| byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let name = segment.split(|&byte| byte == b';').next().unwrap_or_default();
        let last = segments.peek().is_none();
        match name {
            b"." | b".." => {
                if name == b".." {
                    out.pop();
                }
                if last {
                    out.push(b"");
                }
            }
            _ => out.push(segment),
        }
    }
    let mut joined = Vec::with_capacity(path.len());
    for segment in out {
        joined.push(b'/');
        joined.extend_from_slice(segment);
    }
    joined
}

/// An authority in one spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Lower case, no port, no trailing dot; IPv6 in brackets.
    pub host: String,
    /// The port, where it is one.
    pub port: Option<u16>,
}

impl Authority {
    /// As it is sent upstream. A port that is none (`test.com:`, `test.com:-1`) is left out, so that the upstream reads
    /// the host that was authorized.
    pub fn to_header(&self) -> String {
        match self.port {
            Some(port) => format!("{}:{port}", self.host),
            None => self.host.clone(),
        }
    }
}

/// Reads a `Host` or `:authority` value.
pub fn authority(given: &str) -> Result<Authority, &'static str> {
    let (name, port) = if let Some(rest) = given.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or("the host has an opening bracket only")?;
        if address.contains('%') {
            return Err("the host has a zone id");
        }
        let address: Ipv6Addr = address.parse().map_err(|_| "the host is not an IPv6 address")?;
        let port = match port.strip_prefix(':') {
            Some(port) => port,
            None if port.is_empty() => "",
            None => return Err("something other than a port follows the IPv6 address"),
        };
        (format!("[{address}]"), port)
    } else {
        let (name, port) = given.split_once(':').unwrap_or((given, ""));
        if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')) {
            return Err("the host contains a character that no host name has");
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.is_empty() || name.ends_with('.') || name.starts_with('.') || name.contains("..") {
            return Err("the host is empty or has an empty label");
        }
        (name.to_ascii_lowercase(), port)
    };
    // Whatever stands there is stripped; it must only not look like more of a host.
    if !port.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+')) {
        return Err("what follows the host is no port");
    }
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    Ok(Authority { host: name, port: digits.then(|| port.parse().ok()).flatten().filter(|&port| port != 0) })
}

#[cfg(test)]
mod tests;
