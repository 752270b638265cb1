//! A request head, byte by byte (RFC 9112): what is not exactly right is refused.
//!
//! Pure; `server` calls it. Does not interpret hosts and paths; `normalise` does.

use ::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri,
    header::{CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING},
    request::Parts,
};
use bytes::Bytes;

use super::{Framing, MAX_FIELDS, MAX_HEAD};
use crate::gateway::http::headers::has_option;

/// Methods that are understood: RFC 9110, PATCH, and WebDAV, as in Envoy. Methods are case-sensitive.
const METHODS: [&str; 34] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "CONNECT",
    "OPTIONS",
    "TRACE",
    "PATCH",
    "ACL",
    "BIND",
    "CHECKOUT",
    "COPY",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "MSEARCH",
    "M-SEARCH",
    "NOTIFY",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SUBSCRIBE",
    "UNBIND",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
];

/// Whether `method` is one that is understood.
pub(in crate::gateway) fn known_method(method: &str) -> bool {
    METHODS.contains(&method)
}

/// A request that breaks the rules: the status it gets, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::gateway) struct Violation {
    /// 400, 408, 426, 431, 501 or 505.
    pub(in crate::gateway) status: u16,
    /// The rule, as a sentence.
    pub(in crate::gateway) why: &'static str,
}

impl Violation {
    fn new(status: u16, why: &'static str) -> Self {
        Self { status, why }
    }

    /// The head did not arrive in time.
    pub(super) fn slow() -> Self {
        Self::new(408, "the request head did not arrive in time")
    }
}

/// A valid head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: Parts,
    pub(super) framing: Framing,
    /// The workload sends its body when it is told to go on.
    pub(super) expects_continue: bool,
    /// It wants the connection to end after the answer.
    pub(super) close: bool,
}

/// Where the head at the start of `input` ends. `searched` remembers how far earlier calls looked.
pub(super) fn find_end(input: &[u8], searched: &mut usize) -> Result<Option<usize>, Violation> {
    if matches!(input.first(), Some(b'\r' | b'\n')) {
        return Err(Violation::new(400, "an empty line stands before the request line"));
    }
    for at in *searched..input.len() {
        match input[at] {
            b'\n' if at == 0 || input[at - 1] != b'\r' => {
                return Err(Violation::new(400, "a line of the head ends without CR"));
            }
            b'\n' if at >= 3 && input[at - 2] == b'\n' => {
                return if at < MAX_HEAD { Ok(Some(at + 1)) } else { Err(too_large()) };
            }
            b'\n' => {}
            _ if at > 0 && input[at - 1] == b'\r' => {
                return Err(Violation::new(400, "the head contains a CR that no LF follows"));
            }
            0 => return Err(Violation::new(400, "the head contains a NUL")),
            _ => {}
        }
    }
    *searched = input.len();
    if input.len() > MAX_HEAD { Err(too_large()) } else { Ok(None) }
}

fn too_large() -> Violation {
    Violation::new(431, "the head is larger than 60 KiB or has more than 100 fields")
}

/// Reads a complete head, final empty line included.
pub(super) fn parse(head: &Bytes) -> Result<Head, Violation> {
    let bad = |why| Violation::new(400, why);
    let mut lines = head.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let (method, uri) = request_line(head, lines.next().unwrap_or_default())?;
    let mut headers = HeaderMap::with_capacity(12);
    let mut fields = 0;
    for line in lines {
        if line.is_empty() {
            break;
        }
        fields += 1;
        if fields > MAX_FIELDS {
            return Err(too_large());
        }
        let colon = line
            .iter()
            .position(|&byte| byte == b':')
            .ok_or_else(|| bad("a line of the head has no colon"))?;
        let (name, value) = (&line[..colon], without_blanks(&line[colon + 1..]));
        let name = HeaderName::from_bytes(name)
            .map_err(|_| bad("a field name is empty, folded, or contains a character that no name has"))?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(value))
            .map_err(|_| bad("a field value contains a control character"))?;
        headers.append(name, value);
    }
    let one = |name: HeaderName, repeated| {
        let mut values = headers.get_all(name).iter();
        let value = values.next();
        if values.next().is_some() { Err(bad(repeated)) } else { Ok(value) }
    };
    if one(HOST, "a request has exactly one Host field")?.is_none() {
        return Err(bad("a request has exactly one Host field"));
    }
    let length = one(CONTENT_LENGTH, "Content-Length is repeated")?;
    let length = length
        .map(|value| parse_length(value.as_bytes()).ok_or_else(|| bad("Content-Length is not a number")))
        .transpose()?;
    let framing = match (one(TRANSFER_ENCODING, "Transfer-Encoding is repeated")?, length) {
        (Some(_), Some(_)) => return Err(bad("both Transfer-Encoding and Content-Length frame the body")),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Framing::Chunked,
        (Some(_), None) => {
            return Err(Violation::new(501, "a Transfer-Encoding other than chunked is not understood"));
        }
        (None, Some(0) | None) => Framing::None,
        (None, Some(length)) => Framing::Length(length),
    };
    let expects_continue = framing != Framing::None
        && headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let close = has_option(&headers, b"close");
    let (mut parts, ()) = Request::new(()).into_parts();
    (parts.method, parts.uri, parts.headers) = (method, uri, headers);
    Ok(Head { parts, framing, expects_continue, close })
}

/// RFC 9110 §5.5: of all whitespace only these two may stand around a value.
fn without_blanks(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn request_line(head: &Bytes, line: &[u8]) -> Result<(Method, Uri), Violation> {
    let bad = |why| Violation::new(400, why);
    let mut parts = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad("the request line is not method, target and version, one space between them"));
    };
    let unknown = || bad("the method is unknown; methods are case-sensitive");
    if !std::str::from_utf8(method).is_ok_and(known_method) {
        return Err(unknown());
    }
    if target.is_empty() || target.iter().any(|&byte| byte <= b' ' || byte == 0x7f) {
        return Err(bad("the request target is empty or contains a control character"));
    }
    match version {
        b"HTTP/1.1" => {}
        b"HTTP/1.0" => return Err(Violation::new(426, "HTTP/1.0 is not served; use HTTP/1.1")),
        _ => return Err(bad("the protocol version is not HTTP/1.1")),
    }
    let method = Method::from_bytes(method).map_err(|_| unknown())?;
    let uri = Uri::from_maybe_shared(head.slice_ref(target))
        .map_err(|_| bad("the request target is neither a path nor an absolute URI"))?;
    Ok((method, uri))
}

/// RFC 9112 §6.2: digits only.
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}
