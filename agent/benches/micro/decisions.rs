//! What is decided on the way of a request or connection, by name, in a small and in a large configuration.

use std::{hint::black_box, net::SocketAddr};

use egret::{
    authz::{self, Decision},
    mesh::{Snapshot, SpiffeId},
    route::{self, AppProtocol, Connection, HttpRequest},
};
use http::HeaderMap;

use crate::configuration::{DATABASE, HOST, LARGE, PLAIN_HOST, SMALL, Size, WORKLOAD};

/// The configurations, by name.
pub(crate) const SIZES: [(&str, Size); 2] = [("small", SMALL), ("large", LARGE)];

/// One kind of decision.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// Decides, and whether it was decided as it should be.
    decide: fn(&Asked<'_>) -> bool,
}

/// All of them.
pub(crate) const KINDS: [Kind; 8] = [
    Kind { name: "authorize_allowed", decide: |asked| asked.authorized(HOST, true) },
    Kind { name: "authorize_denied", decide: |asked| asked.authorized(PLAIN_HOST, false) },
    Kind { name: "authorize_opaque", decide: |asked| asked.authorized_opaque() },
    Kind { name: "route_http_over_gateway", decide: |asked| asked.routed(HOST) },
    Kind { name: "route_http_registered", decide: |asked| asked.routed(PLAIN_HOST) },
    Kind { name: "route_http_unregistered", decide: |asked| asked.routed("nobody.knows.example.org") },
    Kind {
        name: "route_tls",
        decide: |asked| route::tls(asked.snapshot, &asked.connection(443), Some(HOST)).outcome.is_ok(),
    },
    Kind { name: "route_tcp", decide: |asked| asked.routed_by_address() },
];

impl Kind {
    /// Makes the decision once.
    pub(crate) fn decide(&self, asked: &Asked<'_>) {
        assert!((self.decide)(black_box(asked)), "{} was decided otherwise", self.name);
    }
}

/// A configuration, and who asks.
pub(crate) struct Asked<'s> {
    snapshot: &'s Snapshot,
    source: SpiffeId,
    headers: HeaderMap,
    database: SocketAddr,
}

impl<'s> Asked<'s> {
    pub(crate) fn new(snapshot: &'s Snapshot) -> Self {
        let source = WORKLOAD.parse().expect("an identity");
        let database = DATABASE.parse().expect("an address");
        Self { snapshot, source, headers: HeaderMap::new(), database }
    }

    fn connection(&self, port: u16) -> Connection<'_> {
        let original_destination = SocketAddr::from(([198, 51, 100, 9], port));
        Connection { source: &self.source, original_destination, dialled_host: None }
    }

    fn request(&self, host: &'s str) -> HttpRequest<'_> {
        HttpRequest {
            method: "GET",
            host,
            authority: host,
            path: "/some/path",
            query: None,
            headers: &self.headers,
        }
    }

    fn asks<'a>(&'a self, http: Option<&'a HttpRequest<'a>>) -> authz::Request<'a> {
        authz::Request {
            source: &self.source,
            source_address: SocketAddr::from(([10, 1, 3, 5], 40_000)),
            original_destination: SocketAddr::from(([198, 51, 100, 9], 80)),
            dialled_host: None,
            sni: None,
            http,
        }
    }

    fn authorized(&self, host: &'s str, allowed: bool) -> bool {
        let request = self.request(host);
        let decision = authz::evaluate(self.snapshot, &self.asks(Some(&request)));
        matches!(decision, Decision::Allow(Some(_))) == allowed
    }

    fn authorized_opaque(&self) -> bool {
        matches!(authz::evaluate(self.snapshot, &self.asks(None)), Decision::Deny(None))
    }

    fn routed(&self, host: &'s str) -> bool {
        route::http(self.snapshot, &self.connection(80), &self.request(host)).outcome.is_ok()
    }

    fn routed_by_address(&self) -> bool {
        let connection =
            Connection { source: &self.source, original_destination: self.database, dialled_host: None };
        route::declared_protocol(self.snapshot, &connection) == AppProtocol::Tcp
            && route::tcp(self.snapshot, &connection).outcome.is_ok()
    }
}
