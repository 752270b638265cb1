//! A request head, byte by byte (RFC 9112): what is not exactly right is refused.
//!
//! Pure; `guard` calls it. Does not interpret hosts and paths; `normalise` does.

/// Envoy's default limit.
pub(super) const MAX_HEAD: usize = 60 * 1024;
/// Envoy's default limit.
const MAX_FIELDS: usize = 100;

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

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    None,
    Length(u64),
    Chunked,
}

/// What the guard must know of a valid head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) body: Body,
    pub(super) upgrade: bool,
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

/// Checks a complete head, final empty line included.
pub(super) fn check(head: &[u8]) -> Result<Head, Violation> {
    let bad = |why| Violation::new(400, why);
    let mut lines = head.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    check_request_line(lines.next().unwrap_or_default())?;

    let (mut hosts, mut fields) = (0, 0);
    let mut length = None;
    let mut coding: Option<&[u8]> = None;
    let mut upgrade = None;
    let mut connection_upgrade = false;
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
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return Err(bad("a field name is empty, folded, or contains a character that no name has"));
        }
        if value.iter().any(|&byte| byte != b'\t' && (byte < b' ' || byte == 0x7f)) {
            return Err(bad("a field value contains a control character"));
        }
        if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            if length.is_some() {
                return Err(bad("Content-Length is repeated"));
            }
            length = Some(parse_length(value).ok_or_else(|| bad("Content-Length is not a number"))?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if coding.is_some() {
                return Err(bad("Transfer-Encoding is repeated"));
            }
            coding = Some(value);
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            upgrade = Some(value);
        } else if name.eq_ignore_ascii_case(b"connection") {
            connection_upgrade |= value
                .split(|&byte| byte == b',')
                .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
        }
    }
    if hosts != 1 {
        return Err(bad("a request has exactly one Host field"));
    }
    let body = match (coding, length) {
        (Some(_), Some(_)) => return Err(bad("both Transfer-Encoding and Content-Length frame the body")),
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => Body::Chunked,
        (Some(_), None) => {
            return Err(Violation::new(501, "a Transfer-Encoding other than chunked is not understood"));
        }
        (None, Some(0) | None) => Body::None,
        (None, Some(length)) => Body::Length(length),
    };
    // Only what hyper takes for an upgrade, so that both agree on what follows the head.
    Ok(Head { body, upgrade: upgrade.is_some() && connection_upgrade })
}

fn check_request_line(line: &[u8]) -> Result<(), Violation> {
    let bad = |why| Violation::new(400, why);
    let mut parts = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(bad("the request line is not method, target and version, one space between them"));
    };
    if !std::str::from_utf8(method).is_ok_and(known_method) {
        return Err(bad("the method is unknown; methods are case-sensitive"));
    }
    if target.is_empty() || target.iter().any(|&byte| byte <= b' ' || byte == 0x7f) {
        return Err(bad("the request target is empty or contains a control character"));
    }
    match version {
        b"HTTP/1.1" => Ok(()),
        b"HTTP/1.0" => Err(Violation::new(426, "HTTP/1.0 is not served; use HTTP/1.1")),
        _ => Err(bad("the protocol version is not HTTP/1.1")),
    }
}

/// RFC 9112 §6.2: digits only.
fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // hyper keeps the two highest values for itself; no body is that long.
    std::str::from_utf8(value).ok()?.parse().ok().filter(|&length| length <= u64::MAX - 2)
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
