//! What routing decides: where a request or connection goes, and which objects said so.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use crate::{mesh::ObjectRef, reason::Refusal};

/// The outcome of routing, with the objects that led to it.
#[derive(Clone, Debug)]
pub struct RouteDecision {
    /// The objects on the way.
    pub path: RoutePath,
    /// What to do, or why not.
    pub outcome: Result<Action, Refusal>,
}

/// The objects a decision went through; `explain` and the access log print it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutePath {
    /// The VirtualService of the mesh stage, and the index (or name) of its route.
    pub mesh_route: Option<(ObjectRef, Arc<str>)>,
    /// The Gateway whose server took it.
    pub gateway: Option<ObjectRef>,
    /// The VirtualService of the gateway stage, and the index (or name) of its route.
    pub gateway_route: Option<(ObjectRef, Arc<str>)>,
    /// The ServiceEntry that registers the destination.
    pub service_entry: Option<ObjectRef>,
    /// The DestinationRule that shapes the upstream connection.
    pub destination_rule: Option<ObjectRef>,
}

/// What to do with a request or connection.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send it upstream.
    Forward(Forward),
    /// Answer with a redirect (VirtualService `redirect`).
    Redirect {
        /// 3xx.
        status: u16,
        /// `Location`.
        location: String,
    },
    /// Answer as configured (VirtualService `directResponse`).
    Respond {
        /// Status.
        status: u16,
        /// Body, possibly empty.
        body: Arc<str>,
    },
}

/// How to send a request upstream.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Where to.
    pub upstream: Arc<Upstream>,
    /// New path with query (VirtualService `rewrite.uri`).
    pub path_and_query: Option<String>,
    /// New `Host` (VirtualService `rewrite.authority`).
    pub authority: Option<String>,
    /// Changes to the request's headers, in order.
    pub request_headers: Vec<Arc<HeaderOperations>>,
    /// Changes to the response's headers, in order.
    pub response_headers: Vec<Arc<HeaderOperations>>,
    /// From the end of the request to the end of the response.
    pub timeout: Option<Duration>,
}

/// One `headers.request` or `headers.response` block: `remove` runs before `set` and `add`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderOperations {
    /// Replace or create.
    pub set: Vec<(http::HeaderName, http::HeaderValue)>,
    /// Append.
    pub add: Vec<(http::HeaderName, http::HeaderValue)>,
    /// Drop.
    pub remove: Vec<http::HeaderName>,
}

/// Application protocol that a port declares (Istio "protocol selection").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 with prior knowledge, gRPC included.
    Http2,
    /// HTTP over TLS: what arrives is TLS, or TLS is originated.
    Https,
    /// Opaque TLS.
    Tls,
    /// Opaque bytes, the database protocols included.
    Tcp,
    /// Not declared: told from the first bytes.
    Detect,
}

/// A destination with everything needed to connect to it. Shared by all requests that go there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Istio's cluster name, such as `outbound|443||test.com`; `PassthroughCluster` for unregistered hosts.
    pub cluster: Arc<str>,
    /// Destination host.
    pub host: Arc<str>,
    /// Destination port, as the ServiceEntry declares it.
    pub port: u16,
    /// Declared protocol of the port.
    pub protocol: AppProtocol,
    /// Where its endpoints come from.
    pub endpoints: Endpoints,
    /// Plain, or TLS as the DestinationRule says.
    pub tls: TlsMode,
    /// How one of several endpoints is chosen.
    pub load_balancer: LoadBalancer,
    /// `trafficPolicy.connectionPool.tcp.connectTimeout`; Istio's default is 10 s.
    pub connect_timeout: Duration,
}

/// Where the endpoints of an upstream come from (ServiceEntry `resolution`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoints {
    /// Listed addresses (`STATIC`).
    Static(Vec<SocketAddr>),
    /// Names to resolve, with their ports (`DNS`, and `NONE` for any other address dialled).
    Dns(Vec<(Arc<str>, u16)>),
    /// The address the workload dialled: unregistered hosts, and `NONE` where the address is one of the ServiceEntry's.
    OriginalDestination(SocketAddr),
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LoadBalancer {
    /// One after the other.
    #[default]
    RoundRobin,
    /// Any.
    Random,
    /// The less loaded of two (Istio's default; `LEAST_CONN` and `LEAST_REQUEST`).
    LeastRequest,
}

/// The transport to an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Bytes as they are: plain HTTP, or the workload's own TLS passed through.
    Plain,
    /// TLS originated by the gateway.
    Originate(Arc<TlsOrigination>),
}

/// TLS origination (DestinationRule `trafficPolicy.tls`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsOrigination {
    /// Present a client certificate: mode `MUTUAL`; false is `SIMPLE`.
    pub mutual: bool,
    /// Name of the Secret in the gateway's namespace.
    pub credential_name: Option<Arc<str>>,
    /// Server name indication; absent: the destination host.
    pub sni: Option<Arc<str>>,
    /// Names of which the server's certificate must bear one; empty: `sni`, else the destination host.
    pub subject_alt_names: Vec<Arc<str>>,
    /// `insecureSkipVerify`: no verification at all. Only when written.
    pub insecure_skip_verify: bool,
    /// The DestinationRule, for messages.
    pub object: ObjectRef,
}
