//! Header fields that end at a proxy, fields a workload must not forge, and the changes a route asks for.

use std::sync::Arc;

use ::http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
};

use crate::route::HeaderOperations;

/// RFC 9110 §7.6.1, beside what `Connection` names.
const HOP_BY_HOP: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Fields that describe the mesh to those who trust them; from a workload they are forgeries, and none of the external
/// server's business.
const MESH: [&str; 4] = ["x-forwarded-client-cert", "forwarded", "baggage", "http2-settings"];
const ENVOY: &str = "x-envoy-";

/// Trailers that could change how the message is read (RFC 9110 §6.5.1).
const NOT_AS_TRAILER: [&str; 5] = ["content-length", "host", "authorization", "trailer", "content-encoding"];

/// Whether `Connection` names this option.
pub(super) fn has_option(headers: &HeaderMap, name: &[u8]) -> bool {
    let values = headers.get_all(CONNECTION).iter();
    let mut options = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    options.any(|option| option.trim_ascii().eq_ignore_ascii_case(name))
}

/// Whether the sender takes trailers (RFC 9110 §10.1.4).
pub(super) fn takes_trailers(headers: &HeaderMap) -> bool {
    headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"))
}

/// Removes what concerns one hop only. `te: trailers` is kept, because gRPC insists on it.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            // A client cannot have its Host removed.
            .filter(|name: &HeaderName| name != ::http::header::HOST)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    let trailers = takes_trailers(headers);
    remove_those(headers, |name| HOP_BY_HOP.contains(name));
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Checks that an answer's framing has one reading. hyper takes the last coding and leaves `Content-Length` standing, which
/// would then frame another body than the one that was read.
pub(super) fn check_framing(headers: &HeaderMap) -> Result<(), &'static str> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    match (codings.next(), lengths.next()) {
        (Some(_), Some(_)) => Err("both Transfer-Encoding and Content-Length frame its body"),
        (Some(coding), None)
            if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") =>
        {
            Err("its Transfer-Encoding is not exactly chunked")
        }
        (None, Some(_)) if lengths.next().is_some() => Err("its Content-Length is repeated"),
        _ => Ok(()),
    }
}

/// Removes what a workload must not tell an external server on the mesh's behalf.
pub(super) fn remove_mesh(headers: &mut HeaderMap) {
    remove_those(headers, |name| MESH.contains(&name.as_str()) || name.as_str().starts_with(ENVOY));
}

/// One look at each field; most messages have none of them.
fn remove_those(headers: &mut HeaderMap, is_meant: impl Fn(&HeaderName) -> bool) {
    let meant: Vec<HeaderName> = headers.keys().filter(|name| is_meant(name)).cloned().collect();
    for name in meant {
        headers.remove(name);
    }
}

/// Removes trailers that must not come after the head.
pub(super) fn remove_from_trailers(trailers: &mut HeaderMap) {
    remove_hop_by_hop(trailers);
    remove_mesh(trailers);
    trailers.remove(TE);
    trailers.remove(TRAILER);
    for name in NOT_AS_TRAILER {
        trailers.remove(name);
    }
}

/// Applies a route's changes, block by block.
pub(super) fn apply(headers: &mut HeaderMap, operations: &[Arc<HeaderOperations>]) {
    for operations in operations {
        let HeaderOperations { set, add, remove } = &**operations;
        for name in remove {
            headers.remove(name);
        }
        for (name, value) in set {
            headers.insert(name, value.clone());
        }
        for (name, value) in add {
            headers.append(name, value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use ::http::HeaderMap;

    use super::{apply, remove_hop_by_hop, remove_mesh};
    use crate::route::HeaderOperations;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn removes_what_ends_here() {
        let mut headers = map(&[
            ("connection", "close, X-Internal, host"),
            ("x-internal", "1"),
            ("host", "a"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("x-kept", "1"),
            ("x-forwarded-client-cert", "By=spiffe://a"),
            ("x-envoy-original-path", "/"),
            ("forwarded", "for=1"),
        ]);
        remove_hop_by_hop(&mut headers);
        remove_mesh(&mut headers);
        assert_eq!(headers, map(&[("host", "a"), ("te", "trailers"), ("x-kept", "1")]));
    }

    #[test]
    fn applies_operations_in_order() {
        let mut headers = map(&[("a", "1"), ("b", "1")]);
        let operations = HeaderOperations {
            set: vec![("b".parse().unwrap(), "2".parse().unwrap())],
            add: vec![("a".parse().unwrap(), "3".parse().unwrap())],
            remove: vec!["a".parse().unwrap()],
        };
        apply(&mut headers, &[operations.into()]);
        assert_eq!(headers, map(&[("a", "3"), ("b", "2")]));
    }
}
