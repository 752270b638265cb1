//! Heads and bodies as they go out.

use std::io::Write as _;

use ::http::{
    HeaderMap, HeaderValue, Method, StatusCode,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    uri::Uri,
};
use bytes::Bytes;

use super::out::Out;

/// A request line and fields.
pub(super) fn request(out: &mut Vec<u8>, method: &Method, target: &Uri, fields: &HeaderMap) {
    let target = target.path_and_query().map_or("/", |target| target.as_str());
    for part in [method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    section(out, fields);
}

/// A status line and fields.
pub(super) fn answer(out: &mut Vec<u8>, status: StatusCode, fields: &HeaderMap) {
    let reason = status.canonical_reason().unwrap_or_default();
    for part in ["HTTP/1.1 ", status.as_str(), " ", reason, "\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    section(out, fields);
}

/// Fields and the empty line after them.
fn section(out: &mut Vec<u8>, fields: &HeaderMap) {
    for (name, value) in fields {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// A body that is not what its head said.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body is not as long as its Content-Length says")]
pub(super) struct WrongLength;

/// Frames a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Encoder {
    /// So many bytes are left.
    Length(u64),
    Chunked {
        /// Whoever reads it wants them.
        trailers: bool,
    },
}

impl Encoder {
    /// For a body of `exact` bytes, or of a length that nobody knows; says so in `fields`, where they do not yet.
    pub(super) fn new(fields: &mut HeaderMap, exact: Option<u64>, trailers: bool) -> Self {
        let declared = fields.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(length) = declared {
            return Self::Length(length);
        }
        if let Some(length) = exact {
            fields.insert(CONTENT_LENGTH, length.into());
            return Self::Length(length);
        }
        fields.remove(CONTENT_LENGTH);
        fields.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        Self::Chunked { trailers }
    }

    /// Appends a piece of the body.
    pub(super) fn data(&mut self, out: &mut Out, bytes: Bytes) -> Result<(), WrongLength> {
        match self {
            Self::Length(left) => {
                *left = left.checked_sub(bytes.len() as u64).ok_or(WrongLength)?;
                out.piece(bytes);
            }
            // An empty chunk would be the last one.
            Self::Chunked { .. } if bytes.is_empty() => {}
            Self::Chunked { .. } => {
                // Writing to memory cannot fail.
                let _ = write!(out.bytes(), "{:x}\r\n", bytes.len());
                out.piece(bytes);
                out.bytes().extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    /// Ends the body.
    pub(super) fn end(&mut self, out: &mut Out, fields: Option<&HeaderMap>) -> Result<(), WrongLength> {
        let out = out.bytes();
        match self {
            Self::Length(0) => Ok(()),
            Self::Length(_) => Err(WrongLength),
            Self::Chunked { trailers } => {
                out.extend_from_slice(b"0\r\n");
                match fields {
                    Some(fields) if *trailers => section(out, fields),
                    _ => out.extend_from_slice(b"\r\n"),
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ::http::HeaderMap;
    use bytes::Bytes;

    use super::{Encoder, Out, WrongLength};

    fn written(mut out: Out) -> String {
        String::from_utf8(std::mem::take(out.bytes())).unwrap()
    }

    #[test]
    fn a_body_is_as_long_as_its_head_says() {
        let mut fields = HeaderMap::new();
        let mut encoder = Encoder::new(&mut fields, Some(3), false);
        assert_eq!(fields["content-length"], "3");
        let mut out = Out::default();
        encoder.data(&mut out, Bytes::from_static(b"ab")).unwrap();
        assert_eq!(encoder.end(&mut out, None), Err(WrongLength));
        assert_eq!(encoder.data(&mut out, Bytes::from_static(b"cd")), Err(WrongLength));
        encoder.data(&mut out, Bytes::from_static(b"c")).unwrap();
        assert_eq!((encoder.end(&mut out, None), &*written(out)), (Ok(()), "abc"));
    }

    #[test]
    fn a_body_of_unknown_length_goes_in_chunks_and_trailers_to_who_wants_them() {
        for (wanted, end) in [(true, "0\r\nx: y\r\n\r\n"), (false, "0\r\n\r\n")] {
            let mut fields = HeaderMap::new();
            let mut encoder = Encoder::new(&mut fields, None, wanted);
            assert_eq!(fields["transfer-encoding"], "chunked");
            let mut out = Out::default();
            encoder.data(&mut out, Bytes::from(vec![b'a'; 17])).unwrap();
            encoder.data(&mut out, Bytes::new()).unwrap();
            encoder
                .end(&mut out, Some(&[("x".parse().unwrap(), "y".parse().unwrap())].into_iter().collect()))
                .unwrap();
            assert_eq!(written(out), format!("11\r\n{}\r\n{end}", "a".repeat(17)));
        }
    }
}
