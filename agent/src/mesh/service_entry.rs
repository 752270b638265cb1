//! ServiceEntry: an external host, its ports and where its endpoints are.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{ExportTo, HostPattern, ObjectRef};
use crate::route::AppProtocol;

/// One ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Its name.
    pub object: ObjectRef,
    /// `metadata.creationTimestamp` (RFC 3339, so it sorts as text); empty where there is none.
    pub created: Arc<str>,
    /// The hosts it registers.
    pub hosts: Vec<HostPattern>,
    /// Virtual addresses of the hosts.
    pub addresses: Vec<IpNet>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// Listed endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Names that the server's certificate may bear.
    pub subject_alt_names: Vec<Arc<str>>,
    /// Who sees it.
    pub export_to: ExportTo,
}

/// A port of a ServiceEntry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Number that clients use.
    pub number: u16,
    /// Name, by which endpoints override the number.
    pub name: Arc<str>,
    /// What is spoken.
    pub protocol: AppProtocol,
    /// Number at the endpoints, where it differs.
    pub target: Option<u16>,
}

/// `resolution`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// The address the workload dialled.
    None,
    /// The listed addresses.
    Static,
    /// Names, resolved by the gateway (`DNS`, `DNS_ROUND_ROBIN`).
    Dns,
}

/// A listed endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where.
    pub address: EndpointAddress,
    /// Port numbers by port name.
    pub ports: BTreeMap<String, u16>,
    /// Labels, for subsets.
    pub labels: BTreeMap<String, String>,
}

/// Address of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointAddress {
    /// An IP address.
    Ip(IpAddr),
    /// A name to resolve.
    Name(Arc<str>),
}

impl Endpoint {
    /// The endpoint's number for `port`: its own override, else the target port, else the port itself.
    pub fn port(&self, port: &ServicePort) -> u16 {
        self.ports.get(&*port.name).copied().or(port.target).unwrap_or(port.number)
    }
}
