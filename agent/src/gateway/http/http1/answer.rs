//! The head of an upstream's answer (RFC 9112 §4 and §6.3).
//!
//! Pure; `client` calls it. What could be read in two ways is refused; what is merely unusual is not.

use ::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    response::Parts,
};
use bytes::{Bytes, BytesMut};
use httparse::{EMPTY_HEADER, Header, Status};

use super::{Framing, MAX_FIELDS, MAX_HEAD, is_bodiless};
use crate::gateway::http::headers::{check_framing, has_option};

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: Parts,
    pub(super) framing: Framing,
    /// The connection may carry another exchange after this one.
    pub(super) keep_alive: bool,
}

/// Takes the head of an answer to a request of `method` out of `input`. None: it is not complete.
pub(super) fn take(input: &mut BytesMut, method: &Method) -> Result<Option<Head>, String> {
    let mut fields = [EMPTY_HEADER; MAX_FIELDS];
    let mut answer = httparse::Response::new(&mut fields);
    let length = match answer.parse(input) {
        Ok(Status::Complete(length)) if length <= MAX_HEAD => length,
        Ok(Status::Partial) if input.len() <= MAX_HEAD => return Ok(None),
        Err(e) if e != httparse::Error::TooManyHeaders => return Err(e.to_string()),
        _ => return Err("its head is larger than 60 KiB or has more than 100 fields".to_owned()),
    };
    let (code, minor) = (answer.code.unwrap_or_default(), answer.version);
    let status = StatusCode::from_u16(code).map_err(|e| e.to_string())?;
    let base = input.as_ptr() as usize;
    // Where the fields lie, since what they borrow is about to move.
    let spans: Vec<_> = answer
        .headers
        .iter()
        .map(|field| {
            (
                field.name.as_ptr() as usize - base,
                field.name.len(),
                field.value.as_ptr() as usize - base,
                field.value.len(),
            )
        })
        .collect();
    let head = input.split_to(length).freeze();
    let mut headers = HeaderMap::with_capacity(spans.len());
    for (name, name_length, value, value_length) in spans {
        let (name, value) = field(&head[name..name + name_length], head.slice(value..value + value_length))
            .ok_or("a field of its head is malformed")?;
        headers.append(name, value);
    }
    let is_http11 = minor == Some(1);
    let framing = framing(&headers, status, method, is_http11)?;
    let keep_alive = framing != Framing::UntilEnd
        && status != StatusCode::SWITCHING_PROTOCOLS
        && !has_option(&headers, b"close")
        && (is_http11 || has_option(&headers, b"keep-alive"));
    let (mut parts, ()) = Response::new(()).into_parts();
    (parts.status, parts.headers) = (status, headers);
    parts.version = if is_http11 { Version::HTTP_11 } else { Version::HTTP_10 };
    Ok(Some(Head { parts, framing, keep_alive }))
}

fn framing(
    headers: &HeaderMap,
    status: StatusCode,
    method: &Method,
    is_http11: bool,
) -> Result<Framing, String> {
    check_framing(headers)?;
    if is_bodiless(status, method == Method::HEAD) {
        return Ok(Framing::None);
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        // RFC 9112 §6.1: whoever speaks HTTP/1.0 does not know of it, and means something else by it.
        return if is_http11 { Ok(Framing::Chunked) } else { Err("it is chunked in HTTP/1.0".to_owned()) };
    }
    match headers.get(CONTENT_LENGTH) {
        None => Ok(Framing::UntilEnd),
        Some(length) => {
            let digits = length.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let length = digits.and_then(|text| text.parse().ok());
            length.map(Framing::Length).ok_or_else(|| "its Content-Length is not a number".to_owned())
        }
    }
}

/// The fields of a section that ends with an empty line.
pub(super) fn fields(section: &[u8]) -> Option<HeaderMap> {
    let mut fields: [Header<'_>; MAX_FIELDS] = [EMPTY_HEADER; MAX_FIELDS];
    let Ok(Status::Complete((_, fields))) = httparse::parse_headers(section, &mut fields) else {
        return None;
    };
    fields.iter().map(|each| field(each.name.as_bytes(), Bytes::copy_from_slice(each.value))).collect()
}

fn field(name: &[u8], value: Bytes) -> Option<(HeaderName, HeaderValue)> {
    Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_maybe_shared(value).ok()?))
}

#[cfg(test)]
mod tests {
    use ::http::Method;
    use bytes::BytesMut;

    use super::{Framing, Head, take};

    fn read(head: &str, method: &Method) -> Result<Head, String> {
        let mut input = BytesMut::from(head);
        let whole = take(&mut input, method).map(|head| head.expect("it is complete"));
        // In single bytes the outcome must be the same, and what follows stays.
        let mut input = BytesMut::new();
        for byte in head.bytes() {
            assert!(take(&mut input, method).is_ok_and(|head| head.is_none()), "{head:?}");
            input.extend_from_slice(&[byte]);
        }
        input.extend_from_slice(b"next");
        let single = take(&mut input, method);
        assert_eq!(whole.is_err(), single.is_err(), "{head:?}");
        if single.is_ok() {
            assert_eq!(&input[..], b"next", "{head:?}");
        }
        whole
    }

    #[test]
    fn says_how_the_body_is_framed_and_whether_another_exchange_may_follow() {
        let (get, head) = (Method::GET, Method::HEAD);
        for (answer, method, framing, keep_alive) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", &get, Framing::Length(5), true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", &get, Framing::Chunked, true),
            (
                "HTTP/1.1 200 \r\nContent-Length: 0\r\nConnection: x, close\r\n\r\n",
                &get,
                Framing::Length(0),
                false,
            ),
            ("HTTP/1.1 200 OK\r\n\r\n", &get, Framing::UntilEnd, false),
            ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", &get, Framing::Length(5), false),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n",
                &get,
                Framing::Length(5),
                true,
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", &head, Framing::None, true),
            ("HTTP/1.1 204 No Content\r\n\r\n", &get, Framing::None, true),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", &get, Framing::None, true),
        ] {
            let read = read(answer, method).unwrap();
            assert_eq!((read.framing, read.keep_alive), (framing, keep_alive), "{answer:?}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: +5",
            "Content-Length: 5, 5",
            "Content-Length: 18446744073709551616",
            "Transfer-Encoding: gzip, chunked",
        ] {
            assert!(read(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n"), &Method::GET).is_err(), "{fields}");
        }
        assert!(read("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &Method::GET).is_err());
    }

    #[test]
    fn no_head_is_waited_for_without_end() {
        for endless in ["x".repeat(70_000), "HTTP/1.1 200 OK\r\nX: y".to_owned() + &"y".repeat(70_000)] {
            assert!(take(&mut BytesMut::from(&*endless), &Method::GET).is_err());
        }
        let fields = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(101));
        assert!(take(&mut BytesMut::from(&*fields), &Method::GET).is_err());
    }
}
