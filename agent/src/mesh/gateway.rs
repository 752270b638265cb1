//! Gateway: the servers of the egress gateway, which admit hosts to its routing stage.

use std::sync::Arc;

use super::{HostPattern, ObjectRef, Selector, VirtualService};

/// One Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Its name.
    pub object: ObjectRef,
    /// The gateway workloads it configures.
    pub selector: Selector,
    /// Its servers.
    pub servers: Vec<Server>,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Port number, as a VirtualService's mesh stage names it.
    pub port: u16,
    /// What it takes in.
    pub kind: ServerKind,
    /// The hosts it serves.
    pub hosts: Vec<ServerHost>,
}

/// What a server takes in, once the tunnel's own mutual TLS is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerKind {
    /// HTTP requests: `HTTP`, `HTTP2`, `GRPC`, and `HTTPS` that terminates.
    Http,
    /// The workload's own TLS, by server name (`tls.mode: PASSTHROUGH`).
    Passthrough,
    /// Connections: `TCP`, and `TLS` that terminates.
    Tcp,
}

/// A host of a server, as `[namespace/]host`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHost {
    /// The namespace whose VirtualServices may bind; `None` is any.
    pub namespace: Option<Arc<str>>,
    /// The host.
    pub host: HostPattern,
}

impl ServerHost {
    /// Whether VirtualServices of the namespace of this one may bind.
    pub(crate) fn takes(&self, service: &VirtualService) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == service.object.namespace)
    }
}
