//! How gRPC calls end: in a status of their own, in trailers or, where there is nothing but a head, in that.
//!
//! Pure. `exchange` and `body` ask, `record` keeps the answer for log and metrics.

use ::http::{HeaderMap, header::CONTENT_TYPE};

const STATUS: &str = "grpc-status";
const MEDIA_TYPE: &[u8] = b"application/grpc";

/// CANCELLED: nobody waits for the answer any more.
const CANCELLED: u16 = 1;

/// Whether a request is a gRPC call: by its media type, as Envoy tells them.
pub(super) fn is_call(request: &HeaderMap) -> bool {
    let rest = request.get(CONTENT_TYPE).and_then(|value| value.as_bytes().strip_prefix(MEDIA_TYPE));
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The status in trailers, or in the head of an answer that has no other part.
pub(super) fn status(fields: &HeaderMap) -> Option<u16> {
    fields.get(STATUS)?.to_str().ok()?.parse().ok()
}

/// What a client takes from an answer without a status of gRPC's own ("HTTP to gRPC Status Code Mapping"). 0: there was no answer.
pub(in crate::gateway) fn status_of_http(code: u16) -> u16 {
    match code {
        0 => CANCELLED,
        400 => 13,                   // INTERNAL
        401 => 16,                   // UNAUTHENTICATED
        403 => 7,                    // PERMISSION_DENIED
        404 => 12,                   // UNIMPLEMENTED
        429 | 502 | 503 | 504 => 14, // UNAVAILABLE
        _ => 2,                      // UNKNOWN
    }
}

#[cfg(test)]
mod tests {
    use ::http::HeaderMap;

    use super::{is_call, status};

    fn with(name: &'static str, value: &'static str) -> HeaderMap {
        [(name.parse().unwrap(), value.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn calls_are_told_by_their_media_type() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            assert_eq!(is_call(&with("content-type", value)), expected, "{value}");
        }
        assert!(!is_call(&HeaderMap::new()));
    }

    #[test]
    fn a_status_is_a_number() {
        assert_eq!(status(&with("grpc-status", "14")), Some(14));
        for odd in ["", "OK", "-1", "70000"] {
            assert_eq!(status(&with("grpc-status", odd)), None, "{odd}");
        }
    }
}
