//! The compiled configuration: immutable, shared, swapped as a whole.

use std::{collections::HashMap, sync::Arc};

use super::{
    Credential, HostMap, HostPattern, MeshSettings, ObjectRef, RefusedPolicy, Registry, VirtualService,
    WorkloadBinding, exported::Exported, gateways::Gateways, policies::Policies,
};

/// VirtualServices by host; of several for one host, in the order in which their routes are tried.
pub(crate) type RouteTable = HostMap<Exported<Arc<VirtualService>>>;

/// One consistent configuration.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts up with every change; 0 is the empty configuration.
    pub version: u64,
    /// Mesh-wide settings.
    pub settings: MeshSettings,
    /// Secrets of the gateway's namespace that hold TLS material, by name.
    pub credentials: HashMap<String, Arc<Credential>>,
    /// They could not be read. Never so in a gateway, which waits until they were.
    pub credentials_unknown: bool,
    /// WorkloadBindings, in the order in which they are asked.
    pub bindings: Vec<Arc<WorkloadBinding>>,
    /// WorkloadBindings that are not valid and have no last good version: what they have enrolled stays so.
    pub refused_bindings: Vec<ObjectRef>,
    /// A document that cannot be read may hold more of them.
    pub may_hold_more_bindings: bool,
    /// External services, with their upstreams.
    pub(crate) registry: Registry,
    /// Servers of the Gateways whose selector means the egress gateway, with the VirtualServices of the gateway stage.
    pub(crate) gateways: Gateways,
    /// VirtualServices of the mesh stage.
    pub(crate) mesh_routes: RouteTable,
    /// Hosts of VirtualServices that are not valid and have no last good version.
    pub(crate) refused_routes: HostMap<Vec<(HostPattern, ObjectRef)>>,
    /// Hosts of ServiceEntries that are not valid and have no last good version.
    pub(crate) refused_services: HostMap<Vec<(HostPattern, ObjectRef)>>,
    /// Policies in force at the egress gateway.
    pub(crate) policies: Policies,
    /// Policies that would be in force if they were valid.
    pub(crate) refused_policies: Vec<RefusedPolicy>,
}

impl Snapshot {
    /// Whether `host`, as a VirtualService names a destination, is the egress gateway itself. `name.namespace` and
    /// `name.namespace.svc` mean the same as the fully qualified name.
    pub fn is_egress_gateway(&self, host: &str) -> bool {
        self.settings.gateway.hosts.iter().any(|full| {
            full.eq_ignore_ascii_case(host)
                || full.get(..host.len()).is_some_and(|start| {
                    let rest = &full[host.len()..];
                    start.eq_ignore_ascii_case(host)
                        && matches!(rest, ".svc.cluster.local" | ".cluster.local")
                })
        })
    }
}
