//! Valid objects → [`Snapshot`]: everything that can be looked up, ordered or built once is, here.
//!
//! Called by `source` on every change. Cannot fail: what is not valid never gets here.

use std::{collections::HashMap, sync::Arc};

use super::{
    AuthorizationPolicy, Credential, DestinationRule, Gateway, GatewayName, HostPattern, Kind, MeshSettings,
    ObjectRef, RefusedPolicy, Registry, Selector, ServiceEntry, Snapshot, VirtualService, WorkloadBinding,
    gateways::Gateways, policies::Policies, rules::RuleIndex, snapshot::RouteTable,
};

/// The objects in force.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Mesh-wide settings.
    pub settings: MeshSettings,
    /// ServiceEntries.
    pub service_entries: Vec<Arc<ServiceEntry>>,
    /// Gateways.
    pub gateways: Vec<Arc<Gateway>>,
    /// VirtualServices.
    pub virtual_services: Vec<Arc<VirtualService>>,
    /// DestinationRules.
    pub destination_rules: Vec<Arc<DestinationRule>>,
    /// AuthorizationPolicies.
    pub policies: Vec<Arc<AuthorizationPolicy>>,
    /// AuthorizationPolicies that are not valid and have no last good version.
    pub refused_policies: Vec<RefusedPolicy>,
    /// ServiceEntries, VirtualServices and DestinationRules that are not valid and have no last good version, with the hosts they are for:
    /// what they would have said is not known, so those hosts are refused rather than treated as if there were no object.
    pub refused_hosts: Vec<(ObjectRef, Vec<HostPattern>)>,
    /// WorkloadBindings.
    pub bindings: Vec<Arc<WorkloadBinding>>,
    /// WorkloadBindings that are not valid and have no last good version.
    pub refused_bindings: Vec<ObjectRef>,
    /// Some document cannot be read.
    pub may_hold_more_bindings: bool,
    /// Credentials of every namespace.
    pub credentials: Vec<Arc<Credential>>,
    /// Whoever asks may not read credentials: that one is not there means nothing.
    pub credentials_unknown: bool,
}

impl Objects {
    /// Compiles.
    pub fn compile(mut self, version: u64) -> Snapshot {
        let settings = self.settings;
        self.service_entries.sort_by(|a, b| (&a.created, &a.object).cmp(&(&b.created, &b.object)));
        self.virtual_services.sort_by(|a, b| (&a.created, &a.object).cmp(&(&b.created, &b.object)));
        self.gateways.sort_by(|a, b| a.object.cmp(&b.object));
        self.policies.sort_by(|a, b| a.object.cmp(&b.object));

        let labels = &settings.gateway.labels;
        let rules = RuleIndex::new(&self.destination_rules, &self.refused_hosts, &settings);
        let registry = Registry::new(&self.service_entries, &rules);
        let mut snapshot = Snapshot { version, registry, settings: settings.clone(), ..Snapshot::default() };
        let mut routes: HashMap<GatewayName, RouteTable> = HashMap::new();
        for service in &self.virtual_services {
            for gateway in &service.gateways {
                let table = routes.entry(gateway.clone()).or_default();
                for host in &service.hosts {
                    table.entry(host).push(Arc::clone(service), [&service.export_to]);
                }
            }
        }
        snapshot.mesh_routes = routes.remove(&GatewayName::Mesh).unwrap_or_default();
        let gateways = self.gateways.into_iter().filter(|gateway| gateway.selector.matches(labels));
        snapshot.gateways = Gateways::new(gateways, routes, &settings.gateway.namespace);

        for (object, hosts) in &self.refused_hosts {
            let table = match object.kind {
                Kind::VirtualService => &mut snapshot.refused_routes,
                Kind::ServiceEntry => &mut snapshot.refused_services,
                _ => continue,
            };
            for host in hosts {
                table.entry(host).push((host.clone(), object.clone()));
            }
        }

        let applies = |object: &ObjectRef, selector: &Selector| {
            let namespace = &*object.namespace;
            (namespace == settings.root_namespace || namespace == settings.gateway.namespace)
                && selector.matches(labels)
        };
        let in_force = self.policies.into_iter().filter(|policy| applies(&policy.object, &policy.selector));
        snapshot.policies = Policies::new(in_force.collect());
        snapshot.refused_policies = self
            .refused_policies
            .into_iter()
            .filter(|policy| applies(&policy.object, &policy.selector))
            .collect();
        self.bindings.sort_by(|a, b| (&a.created, &a.object).cmp(&(&b.created, &b.object)));
        snapshot.bindings = self.bindings;
        snapshot.refused_bindings = self.refused_bindings;
        snapshot.may_hold_more_bindings = self.may_hold_more_bindings;
        snapshot.credentials = credentials(&self.credentials, &settings.gateway.namespace);
        snapshot.credentials_unknown = self.credentials_unknown;
        snapshot
    }
}

/// The credentials of the gateway's namespace. A Secret `NAME-cacert` supplies the CA of Secret `NAME`, as in Istio,
/// and wins over a CA in `NAME` itself.
fn credentials(all: &[Arc<Credential>], namespace: &str) -> HashMap<String, Arc<Credential>> {
    let mut found: HashMap<String, Arc<Credential>> = HashMap::new();
    for credential in all.iter().filter(|c| &*c.object.namespace == namespace) {
        found.insert(credential.object.name.to_string(), Arc::clone(credential));
    }
    let authorities: Vec<_> = found
        .iter()
        .filter_map(|(name, credential)| {
            Some((name.strip_suffix("-cacert")?.to_owned(), Arc::clone(credential)))
        })
        .collect();
    for (name, authority) in authorities {
        let base = found.entry(name.clone()).or_insert_with(|| {
            Arc::new(Credential {
                object: ObjectRef::new(Kind::Secret, namespace, name),
                certificate: None,
                key: None,
                ca: None,
                crl: None,
            })
        });
        let base = Arc::make_mut(base);
        if authority.ca.is_some() {
            base.ca.clone_from(&authority.ca);
        }
        if authority.crl.is_some() {
            base.crl.clone_from(&authority.crl);
        }
    }
    found
}
