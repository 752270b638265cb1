//! DestinationRules by namespace and host: which of them apply to a service, in which order.
//!
//! Looked up in the gateway's namespace, the service's, the root namespace and the client's own, in that order; inside a
//! namespace the most specific host comes first, then the first by name. `upstream` reads the answer.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{DestinationRule, ExportTo, HostMap, HostPattern, Kind, MeshSettings, ObjectRef};

/// DestinationRules by namespace and host. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct RuleIndex(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rules: HashMap<Arc<str>, HostMap<Vec<Arc<DestinationRule>>>>,
    /// Rules that are not valid and have no last good version.
    refused: HostMap<Vec<ObjectRef>>,
    gateway_namespace: String,
    root_namespace: String,
}

impl RuleIndex {
    pub(super) fn new(
        rules: &[Arc<DestinationRule>],
        refused: &[(ObjectRef, Vec<HostPattern>)],
        settings: &MeshSettings,
    ) -> Self {
        let mut inner = Inner {
            gateway_namespace: settings.gateway.namespace.clone(),
            root_namespace: settings.root_namespace.clone(),
            rules: HashMap::new(),
            refused: HostMap::default(),
        };
        for (object, hosts) in refused.iter().filter(|(object, _)| object.kind == Kind::DestinationRule) {
            for host in hosts {
                inner.refused.entry(host).push(object.clone());
            }
        }
        let mut rules: Vec<_> = rules
            .iter()
            .filter(|r| r.workload_selector.as_ref().is_none_or(|s| s.matches(&settings.gateway.labels)))
            .collect();
        rules.sort_by(|a, b| a.object.cmp(&b.object));
        for rule in rules {
            let hosts = inner.rules.entry(Arc::clone(&rule.object.namespace)).or_default();
            hosts.entry(&rule.host).push(Arc::clone(rule));
        }
        Self(Arc::new(inner))
    }

    /// The rules for `host`, in order of precedence.
    pub(super) fn find<'m>(
        &'m self,
        host: &str,
        service_namespace: &str,
        client: Option<&str>,
    ) -> Vec<&'m Arc<DestinationRule>> {
        let inner = &*self.0;
        let mut namespaces = vec![&*inner.gateway_namespace];
        for namespace in [Some(service_namespace), Some(&*inner.root_namespace), client].into_iter().flatten()
        {
            if !namespaces.contains(&namespace) {
                namespaces.push(namespace);
            }
        }
        let eyes = [&*inner.gateway_namespace, client.unwrap_or(&inner.gateway_namespace)];
        namespaces
            .into_iter()
            .filter_map(|namespace| inner.rules.get(namespace))
            .flat_map(|hosts| hosts.candidates(host).flatten())
            .filter(|rule| rule.export_to.visible(&eyes))
            .collect()
    }

    /// A refused rule that would have been looked at.
    pub(super) fn refused(
        &self,
        host: &str,
        service_namespace: &str,
        client: Option<&str>,
    ) -> Option<&ObjectRef> {
        let inner = &*self.0;
        inner.refused.candidates(host).flatten().find(|object| {
            let namespace = &*object.namespace;
            namespace == inner.gateway_namespace
                || namespace == service_namespace
                || namespace == inner.root_namespace
                || client == Some(namespace)
        })
    }

    /// The namespaces whose clients may be treated differently from others.
    pub(super) fn special_namespaces(&self, host: &str) -> BTreeSet<Arc<str>> {
        let mut found: BTreeSet<Arc<str>> =
            self.0.refused.candidates(host).flatten().map(|object| Arc::clone(&object.namespace)).collect();
        for hosts in self.0.rules.values() {
            for rule in hosts.candidates(host).flatten() {
                found.insert(Arc::clone(&rule.object.namespace));
                if let ExportTo::Namespaces(list) = &rule.export_to {
                    found.extend(list.iter().cloned());
                }
            }
        }
        found
    }

    /// The subsets that any rule for `host` defines.
    pub(super) fn subset_names(&self, host: &str) -> BTreeSet<Arc<str>> {
        let candidates = self.0.rules.values().flat_map(|hosts| hosts.candidates(host).flatten());
        candidates.flat_map(|rule| rule.subsets.iter().map(|subset| Arc::clone(&subset.name))).collect()
    }
}
