//! Mesh-wide settings, under the names of Istio's MeshConfig where it has one.

use std::{collections::BTreeMap, net::SocketAddr};

use ipnet::IpNet;

use super::ExistingConnections;

/// What happens to hosts that no ServiceEntry registers (MeshConfig `outboundTrafficPolicy.mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OutboundTrafficPolicy {
    /// Passed through to the original destination, and logged.
    #[default]
    AllowAny,
    /// Refused.
    RegistryOnly,
}

/// What happens to connections of enrolled workloads while no agent runs (MeshConfig `onAgentDown`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OnAgentDown {
    /// They are refused.
    #[default]
    Refuse,
    /// They go out directly: neither authorized nor encrypted nor logged.
    Bypass,
}

impl OnAgentDown {
    /// As written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Refuse => "REFUSE",
            Self::Bypass => "BYPASS",
        }
    }
}

/// The egress gateway as the Istio objects see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySettings {
    /// Its namespace: Secrets named by `credentialName` are read from here and nowhere else.
    pub namespace: String,
    /// Its pod labels, for the `selector` of Gateways and AuthorizationPolicies.
    pub labels: BTreeMap<String, String>,
    /// The host names by which a VirtualService's mesh stage points at it.
    pub hosts: Vec<String>,
}

/// The mesh-wide settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshSettings {
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// Namespace whose objects apply to the whole mesh.
    pub root_namespace: String,
    /// Unregistered hosts.
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    /// The egress gateway.
    pub gateway: GatewaySettings,
    /// Destinations that are never captured: cluster-internal ranges and what the operator excludes.
    pub bypass: Vec<IpNet>,
    /// Connections while no agent runs.
    pub on_agent_down: OnAgentDown,
    /// DNS resolvers that workloads may ask directly; absent: those of the machine (`dns.resolvers`).
    pub resolvers: Option<Vec<SocketAddr>>,
    /// What workloads ask resolvers is answered by the agent where a ServiceEntry registers the name (`dns.capture`).
    pub dns_capture: bool,
    /// On a cluster: pods are refused what only some may do until it is known whether they are to be captured (`strictStart`).
    pub strict_start: bool,
    /// Connections that are older than the enrolment of their workload.
    pub existing_connections: ExistingConnections,
}

impl Default for MeshSettings {
    fn default() -> Self {
        Self {
            trust_domain: "cluster.local".to_owned(),
            root_namespace: "istio-system".to_owned(),
            outbound_traffic_policy: OutboundTrafficPolicy::default(),
            gateway: GatewaySettings {
                namespace: "istio-system".to_owned(),
                labels: BTreeMap::from([("istio".to_owned(), "egressgateway".to_owned())]),
                hosts: vec!["istio-egressgateway.istio-system.svc.cluster.local".to_owned()],
            },
            bypass: Vec::new(),
            on_agent_down: OnAgentDown::default(),
            resolvers: None,
            dns_capture: false,
            strict_start: true,
            existing_connections: ExistingConnections::default(),
        }
    }
}
