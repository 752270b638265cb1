//! Does a request meet the `match` of a VirtualService route?

use http::HeaderMap;

use super::{HttpRequest, stage::Stage};
use crate::mesh::{HeaderMatch, HttpMatch, HttpRoute, TextMatch};

/// The entry of `match` that the request meets.
pub(super) fn matching<'r>(
    route: &'r HttpRoute,
    stage: &Stage<'_>,
    request: &HttpRequest<'_>,
) -> Option<&'r HttpMatch> {
    route.matches.iter().find(|wanted| meets(wanted, stage, request))
}

fn meets(wanted: &HttpMatch, stage: &Stage<'_>, request: &HttpRequest<'_>) -> bool {
    stage.takes(&wanted.gateways, wanted.port, wanted.source_namespace.as_deref())
        && wanted.uri.as_ref().is_none_or(|uri| {
            if uri.ignore_case {
                uri.text.matches_ignoring_case(request.path)
            } else {
                uri.text.matches(request.path)
            }
        })
        // What the gateway decides about is the clear request inside the tunnel.
        && wanted.scheme.as_ref().is_none_or(|scheme| scheme.matches("http"))
        && wanted.method.as_ref().is_none_or(|method| method.matches(request.method))
        && wanted.authority.as_ref().is_none_or(|authority| {
            // Port and trailing dot must not hide a host, but who writes the port means it.
            authority.matches(request.host) || authority.matches(request.authority)
        })
        && wanted.headers.iter().all(|header| header_matches(header, request.headers))
        && !wanted.without_headers.iter().any(|header| header_matches(header, request.headers))
        && wanted.query.iter().all(|(name, value)| query_matches(name, value, request.query))
}

/// Of several lines of one header, one that matches is enough (measured on Istio).
fn header_matches(wanted: &HeaderMatch, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(&wanted.name).iter();
    match &wanted.value {
        None => values.next().is_some(),
        Some(text) => values.any(|value| text.matches(&String::from_utf8_lossy(value.as_bytes()))),
    }
}

/// The first parameter of that name counts, its value as sent.
fn query_matches(name: &str, wanted: &TextMatch, query: Option<&str>) -> bool {
    query
        .unwrap_or_default()
        .split('&')
        .find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
        .is_some_and(|value| wanted.matches(value))
}
