//! The registry: external services by host and by address, from all ServiceEntries.
//!
//! ServiceEntries of one namespace that register the same host are one service; across namespaces the older one wins,
//! then the first by namespace and name (measured on Istio).

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipnet::IpNet;

use super::{
    Endpoint, EndpointAddress, ExportTo, Few, HostMap, HostPattern, Resolution, ServiceEntry, ServicePort,
    exported::Exported, networks::Networks, rules::RuleIndex, upstream::Cached,
};

/// A service: one host (or wildcard) of one namespace.
#[derive(Debug)]
pub struct Service {
    /// Its host.
    pub host: HostPattern,
    /// The ServiceEntries behind it, the one that names it first.
    pub entries: Vec<Arc<ServiceEntry>>,
    /// Its ports by number.
    pub ports: BTreeMap<u16, ServicePort>,
    pub(super) cached: Vec<Cached>,
    pub(super) rules: RuleIndex,
}

impl Service {
    /// The ServiceEntry that declares `port`.
    pub fn entry(&self, port: u16) -> &Arc<ServiceEntry> {
        let declares = |entry: &&Arc<ServiceEntry>| entry.ports.iter().any(|p| p.number == port);
        self.entries.iter().find(declares).unwrap_or(&self.entries[0])
    }

    /// The endpoints of `port`, of all entries that declare it, with their port numbers.
    pub(super) fn endpoints(&self, port: u16) -> impl Iterator<Item = (&Endpoint, u16)> {
        self.entries.iter().flat_map(move |entry| {
            let declared = entry.ports.iter().find(|p| p.number == port);
            declared
                .into_iter()
                .flat_map(move |p| entry.endpoints.iter().map(move |endpoint| (endpoint, endpoint.port(p))))
        })
    }

    /// What its ServiceEntries list as `addresses`.
    pub fn addresses(&self) -> impl Iterator<Item = &IpNet> {
        self.entries.iter().flat_map(|entry| &entry.addresses)
    }

    fn visible(&self, namespaces: &[&str; 2]) -> bool {
        self.export_to().any(|export_to| export_to.visible(namespaces))
    }

    /// It is seen where one of its ServiceEntries is.
    fn export_to(&self) -> impl Iterator<Item = &ExportTo> {
        self.entries.iter().map(|entry| &entry.export_to)
    }
}

/// All services.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    hosts: HostMap<Exported<Arc<Service>>>,
    addresses: HashMap<SocketAddr, Exported<Arc<Service>>>,
    networks: Networks<Arc<Service>>,
    endpoints: HashMap<SocketAddr, Exported<(Arc<Service>, u16)>>,
}

impl Registry {
    /// From ServiceEntries in order of precedence.
    pub(super) fn new(entries: &[Arc<ServiceEntry>], rules: &RuleIndex) -> Self {
        let mut order: Vec<(HostPattern, Arc<str>)> = Vec::new();
        let mut merged: HashMap<(HostPattern, Arc<str>), Vec<Arc<ServiceEntry>>> = HashMap::new();
        for entry in entries {
            for host in &entry.hosts {
                let key = (host.clone(), Arc::clone(&entry.object.namespace));
                let group = merged.entry(key.clone()).or_insert_with(|| {
                    order.push(key);
                    Vec::new()
                });
                group.push(Arc::clone(entry));
            }
        }
        let mut registry = Self::default();
        for key in order {
            let Some(entries) = merged.remove(&key) else { continue };
            let mut ports = BTreeMap::new();
            for port in entries.iter().flat_map(|entry| &entry.ports) {
                ports.entry(port.number).or_insert_with(|| port.clone());
            }
            let mut service =
                Service { host: key.0, entries, ports, cached: Vec::new(), rules: rules.clone() };
            service.fill_cache();
            registry.add(&Arc::new(service));
        }
        registry
    }

    fn add(&mut self, service: &Arc<Service>) {
        self.hosts.entry(&service.host).push(Arc::clone(service), service.export_to());
        for entry in &service.entries {
            for net in &entry.addresses {
                if net.prefix_len() == net.max_prefix_len() {
                    for port in &entry.ports {
                        let address = SocketAddr::new(net.addr(), port.number);
                        let listed = self.addresses.entry(address).or_default();
                        listed.push(Arc::clone(service), service.export_to());
                    }
                } else {
                    self.networks.push(*net, Arc::clone(service));
                }
            }
        }
        for &port in service.ports.keys() {
            for (endpoint, number) in service.endpoints(port) {
                if let EndpointAddress::Ip(ip) = endpoint.address {
                    let address = SocketAddr::new(ip, number);
                    let there = self.endpoints.entry(address).or_default();
                    there.push((Arc::clone(service), port), service.export_to());
                }
            }
        }
    }

    /// Every service, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.hosts.values().flat_map(Exported::all)
    }

    /// The service that registers `host` on `port`, as one of `namespaces` sees it.
    pub fn by_host(&self, host: &str, port: u16, namespaces: &[&str; 2]) -> Option<&Arc<Service>> {
        let mut services = self.visible(host, namespaces);
        services.find(|service| service.ports.contains_key(&port))
    }

    /// Services that register `host` on any port, most specific first.
    pub fn visible<'m>(
        &'m self,
        host: &str,
        namespaces: &[&str; 2],
    ) -> impl Iterator<Item = &'m Arc<Service>> {
        self.hosts.candidates(host).flat_map(|services| services.visible(namespaces))
    }

    /// The services that claim an address which a workload dialled, with their port: those that list it in `addresses`,
    /// else those with an endpoint there.
    pub(crate) fn by_address(
        &self,
        dialled: SocketAddr,
        namespaces: &[&str; 2],
    ) -> Few<(&Arc<Service>, u16)> {
        let address: IpAddr = dialled.ip().to_canonical();
        let dialled = SocketAddr::new(address, dialled.port());
        let listed = self.addresses.get(&dialled).into_iter().flat_map(|list| list.visible(namespaces));
        let around = self
            .networks
            .containing(address)
            .into_iter()
            .filter(|service| service.visible(namespaces) && service.ports.contains_key(&dialled.port()));
        let found: Few<_> = listed.chain(around).map(|service| (service, dialled.port())).collect();
        if !found.is_empty() {
            return found;
        }
        self.endpoints
            .get(&dialled)
            .into_iter()
            .flat_map(|there| there.visible(namespaces))
            .filter(|(service, _)| {
                service.entries.iter().all(|e| e.resolution != Resolution::Dns && e.addresses.is_empty())
            })
            .map(|(service, port)| (service, *port))
            .collect()
    }
}
