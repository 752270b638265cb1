//! What a route does to a request besides choosing where it goes: rewrite, headers, timeout, redirect.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;

use super::{Action, HeaderOperations, HttpRequest};
use crate::mesh::{HttpAction, HttpMatch, HttpRoute, RedirectPort, TextMatch, WeightedDestination};

/// Effects, gathered over both stages.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) path_and_query: Option<String>,
    pub(super) authority: Option<String>,
    pub(super) request_headers: Vec<Arc<HeaderOperations>>,
    pub(super) response_headers: Vec<Arc<HeaderOperations>>,
    pub(super) timeout: Option<Duration>,
}

impl Effects {
    /// Adds what `route` does to `request` on its way to `to`, which is one of `count` destinations.
    pub(super) fn add(
        &mut self,
        route: &HttpRoute,
        matched: &HttpMatch,
        to: &WeightedDestination,
        count: usize,
        request: &HttpRequest<'_>,
    ) {
        if let Some(rewrite) = &route.rewrite {
            if let Some(uri) = &rewrite.uri {
                self.path_and_query = Some(rewritten(uri, matched, request));
            }
            if let Some(authority) = &rewrite.authority {
                self.authority = Some(authority.to_string());
            }
        }
        // Measured on Istio: with one destination its headers come after the route's, with several before.
        let order = |route: &Option<Arc<HeaderOperations>>, to: &Option<Arc<HeaderOperations>>| {
            let (first, second) = if count == 1 { (route, to) } else { (to, route) };
            [first.clone(), second.clone()].into_iter().flatten().collect::<Vec<_>>()
        };
        self.request_headers.extend(order(&route.request_headers, &to.request_headers));
        // On the way back the gateway stage comes first.
        let back = order(&route.response_headers, &to.response_headers);
        self.response_headers.splice(0..0, back);
        self.timeout = match (self.timeout, route.timeout) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    /// The headers as the gateway stage sees them.
    pub(super) fn headers(&self, sent: &HeaderMap) -> HeaderMap {
        let mut headers = sent.clone();
        for operations in &self.request_headers {
            operations.apply(&mut headers);
        }
        headers
    }
}

impl HeaderOperations {
    /// Applies the operations.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

/// `rewrite.uri`: replaces the matched prefix, else the whole path; the query stays.
fn rewritten(uri: &str, matched: &HttpMatch, request: &HttpRequest<'_>) -> String {
    let mut target = uri.to_owned();
    if let Some(TextMatch::Prefix(prefix)) = matched.uri.as_ref().map(|uri| &uri.text) {
        target.push_str(request.path.get(prefix.len()..).unwrap_or_default());
    }
    if !target.starts_with('/') {
        target.insert(0, '/');
    }
    if let Some(query) = request.query {
        target.push('?');
        target.push_str(query);
    }
    target
}

/// The answer of a route that sends nothing upstream.
/// `stage_port` is the port that the request came to.
pub(super) fn answer(action: &HttpAction, request: &HttpRequest<'_>, stage_port: u16) -> Option<Action> {
    match action {
        HttpAction::Route(_) => None,
        HttpAction::Respond { status, body } => {
            Some(Action::Respond { status: *status, body: Arc::clone(body) })
        }
        HttpAction::Redirect { uri, authority, scheme, port, status } => {
            let scheme = scheme.as_deref().unwrap_or("http");
            let given = match request.authority.rsplit_once(':') {
                Some((_, digits)) if !digits.contains(']') => digits.parse::<u16>().ok(),
                _ => None,
            };
            let host = authority.as_deref().unwrap_or(request.host);
            let port = match port {
                Some(RedirectPort::Number(number)) => Some(*number),
                Some(RedirectPort::ProtocolDefault) => None,
                Some(RedirectPort::Request) => Some(given.unwrap_or(stage_port)),
                None => given.filter(|_| authority.is_none()),
            };
            let mut location = format!("{scheme}://{host}");
            if let Some(port) = port {
                location.push(':');
                location.push_str(&port.to_string());
            }
            if uri.as_ref().is_some_and(|uri| !uri.starts_with('/')) {
                location.push('/');
            }
            location.push_str(uri.as_deref().unwrap_or(request.path));
            if let Some(query) = request.query
                && uri.as_ref().is_none_or(|uri| !uri.contains('?'))
            {
                location.push('?');
                location.push_str(query);
            }
            Some(Action::Redirect { status: *status, location })
        }
    }
}
