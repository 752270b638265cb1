//! Tests of the whole configuration side: YAML in, decisions out. Helpers for the tests of other modules too.

mod bad_input;
mod golden;
mod last_good;
mod lints;
mod tutorial;

use std::{net::SocketAddr, sync::Arc};

use http::HeaderMap;

use super::{directory::Loaded, index::Index};
use crate::{
    authz,
    mesh::{Snapshot, SpiffeId},
    reason::{Reason, Refusal},
    route::{Action, Connection, Forward, HttpRequest, RouteDecision, http_drawn},
};

/// Loads YAML as one file.
pub(crate) fn load(yaml: &str) -> Loaded {
    let mut index = Index::default();
    index.apply("config.yaml", yaml);
    index.load()
}

/// Loads YAML that must be without errors.
pub(crate) fn snapshot(yaml: &str) -> Arc<Snapshot> {
    let loaded = load(yaml);
    let errors: Vec<_> = loaded.report.problems.iter().map(ToString::to_string).collect();
    assert!(!loaded.report.has_errors(), "{errors:#?}");
    loaded.snapshot
}

/// A request to send in a test.
pub(crate) struct Sent<'a> {
    pub(crate) from: &'a str,
    pub(crate) to: &'a str,
    pub(crate) method: &'a str,
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) headers: HeaderMap,
    pub(crate) dialled_host: Option<&'static str>,
}

impl Default for Sent<'_> {
    fn default() -> Self {
        Self {
            from: "spiffe://cluster.local/ns/default/sa/sleep",
            to: "198.51.100.9:80",
            method: "GET",
            authority: "test.com",
            path: "/",
            query: None,
            headers: HeaderMap::new(),
            dialled_host: None,
        }
    }
}

impl Sent<'_> {
    fn with<T>(&self, then: impl FnOnce(&Connection<'_>, &HttpRequest<'_>) -> T) -> T {
        let source: SpiffeId = self.from.parse().unwrap();
        let original_destination: SocketAddr = self.to.parse().unwrap();
        let lower = self.authority.to_ascii_lowercase();
        let host = lower.split(':').next().unwrap();
        let host = host.strip_suffix('.').unwrap_or(host);
        let request = HttpRequest {
            method: self.method,
            host,
            authority: self.authority,
            path: self.path,
            query: self.query,
            headers: &self.headers,
        };
        then(&Connection { source: &source, original_destination, dialled_host: self.dialled_host }, &request)
    }

    pub(crate) fn route(&self, snapshot: &Snapshot) -> RouteDecision {
        self.with(|connection, request| http_drawn(snapshot, connection, request, &mut |_| 0))
    }

    pub(crate) fn authorize(&self, snapshot: &Snapshot) -> authz::Decision {
        self.with(|connection, http| {
            let request = authz::Request {
                source: connection.source,
                source_address: "10.1.3.5:40000".parse().unwrap(),
                original_destination: connection.original_destination,
                dialled_host: None,
                sni: None,
                http: Some(http),
            };
            authz::evaluate(snapshot, &request)
        })
    }
}

pub(crate) fn forwarded(decision: RouteDecision) -> Forward {
    match decision.outcome {
        Ok(Action::Forward(forward)) => forward,
        other => panic!("expected a forward, got {other:?}"),
    }
}

pub(crate) fn refused(decision: RouteDecision) -> Refusal {
    decision.outcome.expect_err("a refusal")
}

pub(crate) fn reason(decision: RouteDecision) -> Reason {
    refused(decision).reason
}
