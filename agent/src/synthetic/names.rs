//! Which names DNS capture answers, and with what. The registry is asked as the gateway asks it: with the eyes of the
//! workload's namespace and of the gateway's.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use crate::mesh::{HostPattern, Service, Snapshot};

/// What a name is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The addresses that its ServiceEntries list.
    Listed(Vec<IpAddr>),
    /// Its synthetic addresses.
    Synthetic,
}

/// The hosts that need synthetic addresses: exact ones that some ServiceEntries register without listing addresses. Those of
/// ServiceEntries that are not valid are among them: the gateway refuses them, and says why.
pub fn hosts(snapshot: &Snapshot) -> BTreeSet<Arc<str>> {
    let valid = snapshot.registry.services().filter(|service| service.addresses().next().is_none());
    let refused = snapshot.refused_services.values().flatten().map(|(pattern, _)| pattern);
    valid.map(|service| &service.host).chain(refused).filter_map(name).collect()
}

/// Every address and range that a ServiceEntry lists.
pub fn listed(snapshot: &Snapshot) -> Vec<IpNet> {
    let all: BTreeSet<IpNet> =
        snapshot.registry.services().flat_map(|service| service.addresses()).copied().collect();
    all.into_iter().collect()
}

/// What `host` (lower case, no trailing dot) is answered with for a workload in `namespace`. None: whoever knows it is asked.
///
/// A host with ranges only has addresses of its own that cannot be answered. A name under a wildcard is answered with the
/// addresses listed for the wildcard, and has no synthetic one: there would be one per name that a workload makes up.
pub fn answer(snapshot: &Snapshot, host: &str, namespace: &str) -> Option<Answer> {
    let eyes = [&*snapshot.settings.gateway.namespace, namespace];
    let mut visible = snapshot.registry.visible(host, &eyes).peekable();
    let Some(pattern) = visible.peek().map(|service| &service.host) else {
        let mut refused = snapshot.refused_services.candidates(host).flatten();
        return refused.any(|(pattern, _)| name(pattern).is_some()).then_some(Answer::Synthetic);
    };
    let same: Vec<&Arc<Service>> = visible.filter(|service| service.host == *pattern).collect();
    let mut listed = same.iter().flat_map(|service| service.addresses()).peekable();
    if listed.peek().is_none() {
        return name(pattern).map(|_| Answer::Synthetic);
    }
    let mut addresses: Vec<IpAddr> =
        listed.filter(|net| net.prefix_len() == net.max_prefix_len()).map(IpNet::addr).collect();
    let mut seen = BTreeSet::new();
    addresses.retain(|address| seen.insert(*address));
    (!addresses.is_empty()).then_some(Answer::Listed(addresses))
}

/// The name of an exact host. An address that is written as a host is no name.
fn name(pattern: &HostPattern) -> Option<Arc<str>> {
    match pattern {
        HostPattern::Exact(host) if !crate::mesh::looks_like_address(host) => Some(Arc::clone(host)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::tests::{load, snapshot};

    fn entry(name: &str, rest: &str) -> String {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: default}}\n\
             spec: {{ports: [{{number: 80, name: http, protocol: HTTP}}], {rest}}}\n---\n"
        )
    }

    fn names(hosts: &BTreeSet<Arc<str>>) -> Vec<&str> {
        hosts.iter().map(|host| &**host).collect()
    }

    #[test]
    fn hosts_without_addresses_are_synthetic_and_the_others_what_they_list() {
        let yaml = [
            entry("a", "hosts: [A.test, 192.0.2.9], resolution: DNS"),
            entry("b", "hosts: [b.test], addresses: [192.0.2.1, 192.0.2.2, 2001:db8::1], resolution: NONE"),
            entry("c", "hosts: [c.test], addresses: [192.0.2.0/24], resolution: NONE"),
            entry("d", "hosts: ['*.d.test', exact.d.test], resolution: NONE"),
            entry("e", "hosts: ['*.e.test'], addresses: [192.0.2.3], resolution: NONE"),
        ]
        .concat();
        let snapshot = snapshot(&yaml);
        assert_eq!(names(&hosts(&snapshot)), ["a.test", "exact.d.test"]);
        assert_eq!(listed(&snapshot).len(), 5);
        let listed =
            |texts: &[&str]| Some(Answer::Listed(texts.iter().map(|text| text.parse().unwrap()).collect()));
        for (host, expected) in [
            ("a.test", Some(Answer::Synthetic)),
            ("b.test", listed(&["192.0.2.1", "192.0.2.2", "2001:db8::1"])),
            ("c.test", None),
            ("x.d.test", None),
            ("exact.d.test", Some(Answer::Synthetic)),
            ("x.e.test", listed(&["192.0.2.3"])),
            ("e.test", None),
            ("a.test.default.svc.cluster.local", None),
            ("192.0.2.9", None),
            ("other.test", None),
        ] {
            assert_eq!(answer(&snapshot, host, "default"), expected, "{host}");
        }
    }

    #[test]
    fn what_a_workload_does_not_see_is_not_answered() {
        let snapshot = snapshot(&entry("a", "hosts: [a.test], resolution: DNS, exportTo: ['.']"));
        assert_eq!(names(&hosts(&snapshot)), ["a.test"]);
        assert_eq!(answer(&snapshot, "a.test", "default"), Some(Answer::Synthetic));
        assert_eq!(answer(&snapshot, "a.test", "elsewhere"), None);
    }

    #[test]
    fn the_hosts_of_a_refused_service_entry_lead_to_its_refusal() {
        let loaded = load(&entry("a", "hosts: [a.test, '*.b.test'], resolution: NEVER"));
        assert!(loaded.report.has_errors());
        assert_eq!(names(&hosts(&loaded.snapshot)), ["a.test"]);
        assert_eq!(answer(&loaded.snapshot, "a.test", "default"), Some(Answer::Synthetic));
        assert_eq!(answer(&loaded.snapshot, "x.b.test", "default"), None);
    }
}
