//! From service, port and subset to the [`Upstream`] that a DestinationRule shapes.
//!
//! Which rules those are is in `rules`. Where Istio takes the first rule and falls back to
//! plain bytes if it says nothing about TLS, Egret takes the first rule *that does* say something, and a port declared
//! HTTPS or TLS never gets plain bytes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{
    DestinationRule, EndpointAddress, HostPattern, ObjectRef, Resolution, Service, TrafficPolicy,
    transport::transport,
};
use crate::{
    reason::{Reason, Refusal},
    route::{Endpoints, LoadBalancer, TlsMode, Upstream},
};

/// Istio's default `connectTimeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A destination, with the objects behind it.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Where to.
    pub upstream: Arc<Upstream>,
    /// The DestinationRule that shapes it.
    pub rule: Option<ObjectRef>,
}

/// What the gateway has to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Payload {
    /// Bytes that are not encrypted yet.
    Clear,
    /// The workload's own TLS.
    Tls,
}

/// An upstream built ahead of time.
#[derive(Debug)]
pub(super) struct Cached {
    port: u16,
    subset: Option<Arc<str>>,
    /// The client's namespace, where that makes a difference.
    namespace: Option<Arc<str>>,
    payload: Payload,
    result: Result<Resolved, Refusal>,
}

impl Cached {
    /// What a service's are ordered by.
    fn key(&self) -> (u16, Payload, Option<&str>, Option<&str>) {
        (self.port, self.payload, self.subset.as_deref(), self.namespace.as_deref())
    }
}

impl Service {
    /// The upstream for a request of a workload in namespace `client` to `host` (which this service registers).
    /// `dialled` is the address the workload dialled, if it dialled one, for `resolution: NONE`.
    pub(crate) fn resolve(
        &self,
        host: &str,
        port: u16,
        subset: Option<&str>,
        client: &str,
        (dialled, payload): (Option<SocketAddr>, Payload),
    ) -> Result<Resolved, Refusal> {
        let find = |namespace| {
            let key = (port, payload, subset, namespace);
            let index = self.cached.binary_search_by(|cached| cached.key().cmp(&key)).ok()?;
            Some(&self.cached[index].result)
        };
        let mut resolved = match find(Some(client)).or_else(|| find(None)) {
            Some(result) => result.clone()?,
            None => self.build(host, port, subset, Some(client), payload)?,
        };
        if let Endpoints::OriginalDestination(placeholder) = resolved.upstream.endpoints {
            let mut upstream = Upstream::clone(&resolved.upstream);
            // The address is the workload's word. It counts where the entry lists it; otherwise the name decides, or a
            // registered name would open the way to any address.
            let listed = dialled
                .map(|dialled| dialled.ip().to_canonical())
                .filter(|address| self.entry(port).addresses.iter().any(|net| net.contains(address)));
            upstream.endpoints = if let Some(address) = listed {
                Endpoints::OriginalDestination(SocketAddr::new(address, placeholder.port()))
            } else if host.starts_with('*') {
                return Err(no_name(host, &self.entry(port).object));
            } else {
                Endpoints::Dns(vec![(host.into(), placeholder.port())])
            };
            resolved.upstream = Arc::new(upstream);
        }
        Ok(resolved)
    }

    /// Builds the upstreams of an exact host ahead of time; those of a wildcard depend on the name asked for.
    pub(super) fn fill_cache(&mut self) {
        let HostPattern::Exact(host) = self.host.clone() else { return };
        let mut namespaces: Vec<Option<Arc<str>>> =
            self.rules.special_namespaces(&host).into_iter().map(Some).collect();
        namespaces.push(None);
        let mut subsets: Vec<Option<Arc<str>>> =
            self.rules.subset_names(&host).into_iter().map(Some).collect();
        subsets.push(None);
        let mut cached = Vec::new();
        for &port in self.ports.keys() {
            for subset in &subsets {
                for namespace in &namespaces {
                    for payload in [Payload::Clear, Payload::Tls] {
                        let result =
                            self.build(&host, port, subset.as_deref(), namespace.as_deref(), payload);
                        let (subset, namespace) = (subset.clone(), namespace.clone());
                        cached.push(Cached { port, subset, namespace, payload, result });
                    }
                }
            }
        }
        cached.sort_by(|a, b| a.key().cmp(&b.key()));
        self.cached = cached;
    }

    fn build(
        &self,
        host: &str,
        port: u16,
        subset: Option<&str>,
        client: Option<&str>,
        payload: Payload,
    ) -> Result<Resolved, Refusal> {
        let entry = self.entry(port);
        let Some(declared) = self.ports.get(&port) else {
            return Err(Refusal::new(
                Reason::NoDestination,
                format!("{} registers {host}, but not on port {port}; add the port to it", entry.object),
            )
            .by(entry.object.clone()));
        };
        let rules = self.rules.find(host, &entry.object.namespace, client);
        let labels = match subset {
            None => None,
            Some(name) => {
                let found = rules.iter().flat_map(|rule| &rule.subsets).find(|s| *s.name == *name);
                Some(&found.ok_or_else(|| missing_subset(host, name))?.labels)
            }
        };
        let policies = |rule: &'_ Arc<DestinationRule>| -> Vec<TrafficPolicy> {
            let mut found = Vec::new();
            for s in rule.subsets.iter().filter(|s| subset == Some(&*s.name)) {
                found.extend(s.policy.ports.get(&port).cloned());
                found.push(s.policy.clone());
            }
            found.extend(rule.policy.ports.get(&port).cloned());
            found.push(rule.policy.clone());
            found
        };
        let chain: Vec<(&ObjectRef, TrafficPolicy)> = rules
            .iter()
            .flat_map(|rule| policies(rule).into_iter().map(|policy| (&rule.object, policy)))
            .collect();
        let setting = chain.iter().find_map(|(object, policy)| Some((*object, policy.tls.as_ref()?)));
        if payload == Payload::Clear
            && setting.is_none()
            && let Some(object) = self.rules.refused(host, &entry.object.namespace, client)
        {
            return Err(Refusal::new(
                Reason::TlsRequired,
                format!(
                    "{object} for {host} is not valid, so whether TLS is asked for is not known; correct it"
                ),
            )
            .by(object.clone()));
        }
        let tls = match payload {
            Payload::Tls => TlsMode::Plain,
            Payload::Clear => transport(host, declared.protocol, port, setting, &entry.subject_alt_names)?,
        };
        let endpoints = self.endpoints_for(host, declared.number, labels, &entry.object)?;
        let rule = setting.map(|(object, _)| object).or(rules.first().map(|rule| &rule.object)).cloned();
        let upstream = Upstream {
            cluster: format!("outbound|{port}|{}|{host}", subset.unwrap_or_default()).into(),
            host: host.into(),
            port,
            protocol: declared.protocol,
            endpoints,
            tls,
            load_balancer: chain
                .iter()
                .find_map(|(_, policy)| policy.load_balancer)
                .unwrap_or(LoadBalancer::LeastRequest),
            connect_timeout: chain
                .iter()
                .find_map(|(_, policy)| policy.connect_timeout)
                .unwrap_or(CONNECT_TIMEOUT),
        };
        Ok(Resolved { upstream: Arc::new(upstream), rule })
    }

    fn endpoints_for(
        &self,
        host: &str,
        port: u16,
        labels: Option<&super::Selector>,
        object: &ObjectRef,
    ) -> Result<Endpoints, Refusal> {
        let entry = self.entry(port);
        let target = self.ports.get(&port).map_or(port, |p| p.target.unwrap_or(p.number));
        let listed: Vec<_> = self
            .endpoints(port)
            .filter(|(endpoint, _)| labels.is_none_or(|wanted| wanted.matches(&endpoint.labels)))
            .collect();
        let none = || {
            let what = if labels.is_some() { " with the labels of the subset" } else { "" };
            Refusal::new(
                Reason::NoEndpoint,
                format!("{object} lists no endpoint{what} for {host} port {port}"),
            )
            .by(object.clone())
        };
        match entry.resolution {
            Resolution::None if listed.is_empty() => {
                // The address is filled in per connection; only the port is known here.
                let placeholder = SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), target);
                Ok(Endpoints::OriginalDestination(placeholder))
            }
            Resolution::Dns => {
                if listed.is_empty() && self.endpoints(port).next().is_none() {
                    if host.starts_with('*') {
                        return Err(no_name(host, object));
                    }
                    return Ok(Endpoints::Dns(vec![(host.into(), target)]));
                }
                let names: Vec<(Arc<str>, u16)> = listed
                    .into_iter()
                    .map(|(endpoint, number)| match &endpoint.address {
                        EndpointAddress::Ip(ip) => (ip.to_string().into(), number),
                        EndpointAddress::Name(name) => (Arc::clone(name), number),
                    })
                    .collect();
                if names.is_empty() { Err(none()) } else { Ok(Endpoints::Dns(names)) }
            }
            Resolution::Static | Resolution::None => {
                let addresses: Vec<_> = listed
                    .into_iter()
                    .filter_map(|(endpoint, number)| match endpoint.address {
                        EndpointAddress::Ip(ip) => Some(SocketAddr::new(ip, number)),
                        EndpointAddress::Name(_) => None,
                    })
                    .collect();
                if addresses.is_empty() { Err(none()) } else { Ok(Endpoints::Static(addresses)) }
            }
        }
    }
}

fn no_name(host: &str, object: &ObjectRef) -> Refusal {
    Refusal::new(
        Reason::NoEndpoint,
        format!("{object} registers {host}, and the connection does not say which of those hosts it is for"),
    )
    .by(object.clone())
}

fn missing_subset(host: &str, name: &str) -> Refusal {
    Refusal::new(
        Reason::NoDestination,
        format!("the route names subset {name:?} of {host}, but no DestinationRule that applies defines it"),
    )
}
