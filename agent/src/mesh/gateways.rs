//! The servers of the egress gateway by port and host, each with the VirtualServices that are bound to its Gateway.
//!
//! `compile` makes it, `route` asks: a Gateway per host costs a request no more than one for all hosts.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use super::{
    Gateway, GatewayName, HostMap, HostPattern, ServerHost, ServerKind, VirtualService, exported::Exported,
    snapshot::RouteTable,
};

/// All servers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gateways {
    ports: HashMap<u16, Vec<OnPort>>,
}

/// The servers of one kind on one port.
#[derive(Clone, Debug)]
struct OnPort {
    kind: ServerKind,
    /// By the hosts that they serve.
    hosts: HostMap<Vec<Served>>,
    /// In order of Gateways and of their servers.
    servers: Vec<Arc<BoundServer>>,
}

/// A host of a server.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) server: Arc<BoundServer>,
    /// Which of the hosts of its server.
    host: usize,
}

impl Served {
    /// The host.
    pub(crate) fn host(&self) -> &ServerHost {
        &self.server.hosts()[self.host]
    }
}

/// A server of a Gateway.
#[derive(Debug)]
pub(crate) struct BoundServer {
    /// Its place among all servers.
    pub(crate) order: usize,
    pub(crate) gateway: Arc<Gateway>,
    /// Which of the Gateway's servers.
    server: usize,
    /// The Gateway, as routes refer to it.
    pub(crate) name: GatewayName,
    /// VirtualServices that name the Gateway.
    pub(crate) routes: Arc<RouteTable>,
    own_namespace: Arc<str>,
    nameless: OnceLock<Nameless>,
}

/// What a server has for connections that do not say which host they are for.
#[derive(Debug)]
pub(crate) struct Nameless {
    /// Of the most specific host of all its VirtualServices.
    pub(crate) specificity: (u8, usize),
    /// Those of its VirtualServices that have routes for connections, in the order in which they are tried.
    pub(crate) services: Vec<Arc<VirtualService>>,
}

impl BoundServer {
    pub(crate) fn kind(&self) -> ServerKind {
        self.gateway.servers[self.server].kind
    }

    pub(crate) fn hosts(&self) -> &[ServerHost] {
        &self.gateway.servers[self.server].hosts
    }

    /// Found out when it is first asked for.
    pub(crate) fn nameless(&self) -> &Nameless {
        self.nameless.get_or_init(|| {
            let bound = |service: &&Arc<VirtualService>| {
                service.export_to.visible(&[&self.own_namespace])
                    && self.hosts().iter().any(|served| {
                        served.takes(service) && service.hosts.iter().any(|host| host.overlaps(&served.host))
                    })
            };
            let mut services: Vec<_> =
                self.routes.values().flat_map(Exported::all).filter(bound).cloned().collect();
            services.sort_by(|a, b| (&a.created, &a.object).cmp(&(&b.created, &b.object)));
            services.dedup_by(|a, b| a.object == b.object);
            let hosts = services.iter().flat_map(|service| &service.hosts);
            let specificity = hosts.map(HostPattern::specificity).max().unwrap_or_default();
            services.retain(|service| !service.tls.is_empty() || !service.tcp.is_empty());
            Nameless { specificity, services }
        })
    }
}

impl Gateways {
    /// From Gateways in order; takes the routes of each.
    pub(super) fn new(
        gateways: impl Iterator<Item = Arc<Gateway>>,
        mut routes: HashMap<GatewayName, RouteTable>,
        own_namespace: &str,
    ) -> Self {
        let own_namespace: Arc<str> = own_namespace.into();
        let mut all = Self::default();
        let mut order = 0;
        for gateway in gateways {
            let name = GatewayName::Named {
                namespace: Arc::clone(&gateway.object.namespace),
                name: Arc::clone(&gateway.object.name),
            };
            let routes = Arc::new(routes.remove(&name).unwrap_or_default());
            for (index, server) in gateway.servers.iter().enumerate() {
                let bound = Arc::new(BoundServer {
                    order,
                    gateway: Arc::clone(&gateway),
                    server: index,
                    name: name.clone(),
                    routes: Arc::clone(&routes),
                    own_namespace: Arc::clone(&own_namespace),
                    nameless: OnceLock::new(),
                });
                order += 1;
                all.add(server.port, &bound);
            }
        }
        all
    }

    fn add(&mut self, port: u16, bound: &Arc<BoundServer>) {
        let kinds = self.ports.entry(port).or_default();
        let kind = bound.kind();
        let at = kinds.iter().position(|on_port| on_port.kind == kind).unwrap_or_else(|| {
            kinds.push(OnPort { kind, hosts: HostMap::default(), servers: Vec::new() });
            kinds.len() - 1
        });
        let on_port = &mut kinds[at];
        on_port.servers.push(Arc::clone(bound));
        for (host, served) in bound.hosts().iter().enumerate() {
            on_port.hosts.entry(&served.host).push(Served { server: Arc::clone(bound), host });
        }
    }

    /// Whether there is a server of one of these kinds on `port`.
    pub(crate) fn has(&self, port: u16, kinds: &[ServerKind]) -> bool {
        self.on(port, kinds).next().is_some()
    }

    /// The servers of these kinds on `port`, in no order.
    pub(crate) fn servers(&self, port: u16, kinds: &[ServerKind]) -> impl Iterator<Item = &Arc<BoundServer>> {
        self.on(port, kinds).flat_map(|on_port| &on_port.servers)
    }

    /// The hosts of such servers that mean `host`, in no order.
    pub(crate) fn serving<'m>(
        &'m self,
        port: u16,
        kinds: &[ServerKind],
        host: &str,
    ) -> impl Iterator<Item = &'m Served> {
        self.on(port, kinds).flat_map(move |on_port| on_port.hosts.candidates(host).flatten())
    }

    fn on(&self, port: u16, kinds: &[ServerKind]) -> impl Iterator<Item = &OnPort> {
        self.ports.get(&port).into_iter().flatten().filter(|on_port| kinds.contains(&on_port.kind))
    }
}
