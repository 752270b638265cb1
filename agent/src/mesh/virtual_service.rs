//! VirtualService: routes by host, for the mesh stage and for gateways.

use std::{net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;

use super::{ExportTo, HostPattern, ObjectRef, TextMatch};
use crate::route::HeaderOperations;

/// One VirtualService.
#[derive(Clone, Debug)]
pub struct VirtualService {
    /// Its name.
    pub object: ObjectRef,
    /// `metadata.creationTimestamp`; of several for one host, the older comes first.
    pub created: Arc<str>,
    /// The hosts it is for.
    pub hosts: Vec<HostPattern>,
    /// Where it applies; the mesh when nothing is written.
    pub gateways: Vec<GatewayName>,
    /// HTTP routes, first match wins.
    pub http: Vec<HttpRoute>,
    /// Routes for TLS that passes through, first match wins.
    pub tls: Vec<L4Route>,
    /// Routes for opaque connections, first match wins.
    pub tcp: Vec<L4Route>,
    /// Who sees it.
    pub export_to: ExportTo,
}

/// A place where routes apply.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GatewayName {
    /// `mesh`: what workloads send.
    Mesh,
    /// A Gateway by namespace and name.
    Named {
        /// Its namespace.
        namespace: Arc<str>,
        /// Its name.
        name: Arc<str>,
    },
}

/// One entry of `http`.
#[derive(Clone, Debug)]
pub struct HttpRoute {
    /// `name`, else the index.
    pub name: Arc<str>,
    /// Any of these; a route without `match` has one that takes every request.
    pub matches: Vec<HttpMatch>,
    /// What to do.
    pub action: HttpAction,
    /// `rewrite`.
    pub rewrite: Option<Rewrite>,
    /// `headers.request`.
    pub request_headers: Option<Arc<HeaderOperations>>,
    /// `headers.response`.
    pub response_headers: Option<Arc<HeaderOperations>>,
    /// `timeout`.
    pub timeout: Option<Duration>,
}

/// One entry of `match`: everything given must hold.
#[derive(Clone, Debug, Default)]
pub struct HttpMatch {
    /// `uri`, without the query.
    pub uri: Option<UriMatch>,
    /// `scheme`.
    pub scheme: Option<TextMatch>,
    /// `method`.
    pub method: Option<TextMatch>,
    /// `authority`.
    pub authority: Option<TextMatch>,
    /// `headers`.
    pub headers: Vec<HeaderMatch>,
    /// `withoutHeaders`.
    pub without_headers: Vec<HeaderMatch>,
    /// `queryParams`.
    pub query: Vec<(Arc<str>, TextMatch)>,
    /// `port`: the port dialled in the mesh stage, the server's in the gateway stage.
    pub port: Option<u16>,
    /// `gateways`, where given.
    pub gateways: Vec<GatewayName>,
    /// `sourceNamespace`.
    pub source_namespace: Option<Arc<str>>,
}

/// `uri` with `ignoreUriCase`.
#[derive(Clone, Debug)]
pub struct UriMatch {
    /// The text.
    pub text: TextMatch,
    /// Without case.
    pub ignore_case: bool,
}

/// A header and its value.
#[derive(Clone, Debug)]
pub struct HeaderMatch {
    /// Name.
    pub name: http::HeaderName,
    /// Value; `None` asks for presence.
    pub value: Option<TextMatch>,
}

/// What a route does.
#[derive(Clone, Debug)]
pub enum HttpAction {
    /// `route`.
    Route(Vec<WeightedDestination>),
    /// `redirect`.
    Redirect {
        /// `uri`.
        uri: Option<Arc<str>>,
        /// `authority`.
        authority: Option<Arc<str>>,
        /// `scheme`.
        scheme: Option<Arc<str>>,
        /// `port` or `derivePort`.
        port: Option<RedirectPort>,
        /// `redirectCode`.
        status: u16,
    },
    /// `directResponse`.
    Respond {
        /// `status`.
        status: u16,
        /// `body`.
        body: Arc<str>,
    },
}

/// The port in a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectPort {
    /// `port`.
    Number(u16),
    /// `FROM_PROTOCOL_DEFAULT`.
    ProtocolDefault,
    /// `FROM_REQUEST_PORT`.
    Request,
}

/// `rewrite`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// New path, or new prefix where the match was by prefix.
    pub uri: Option<Arc<str>>,
    /// New Host.
    pub authority: Option<Arc<str>>,
}

/// A destination with its share.
#[derive(Clone, Debug)]
pub struct WeightedDestination {
    /// Where to.
    pub destination: Destination,
    /// Share of the sum of all weights.
    pub weight: u32,
    /// `headers.request`.
    pub request_headers: Option<Arc<HeaderOperations>>,
    /// `headers.response`.
    pub response_headers: Option<Arc<HeaderOperations>>,
}

/// `destination`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Host, lower case, fully qualified.
    pub host: Arc<str>,
    /// `port.number`.
    pub port: Option<u16>,
    /// `subset`.
    pub subset: Option<Arc<str>>,
}

/// One entry of `tls` or `tcp`.
#[derive(Clone, Debug)]
pub struct L4Route {
    /// The index.
    pub name: Arc<str>,
    /// Any of these; none means every connection.
    pub matches: Vec<L4Match>,
    /// Where to.
    pub destinations: Vec<WeightedDestination>,
}

/// One entry of `match` of a `tls` or `tcp` route.
#[derive(Clone, Debug, Default)]
pub struct L4Match {
    /// `sniHosts`; empty for `tcp`.
    pub sni_hosts: Vec<HostPattern>,
    /// `destinationSubnets`.
    pub destination_subnets: Vec<IpNet>,
    /// `port`.
    pub port: Option<u16>,
    /// `gateways`.
    pub gateways: Vec<GatewayName>,
    /// `sourceNamespace`.
    pub source_namespace: Option<Arc<str>>,
}

impl L4Match {
    /// Whether the subnets given, if any, hold `address`.
    pub fn takes_address(&self, address: IpAddr) -> bool {
        self.destination_subnets.is_empty()
            || self.destination_subnets.iter().any(|net| net.contains(&address))
    }
}
