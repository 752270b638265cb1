//! The kinds Egret reads, as the Kubernetes API names them: the one table of groups, versions and names. `document` takes
//! documents by it, `crds` makes definitions of it.

use crate::mesh::Kind;

/// A kind in the API.
#[derive(Debug)]
pub struct Api {
    /// Which it is to Egret.
    pub kind: Kind,
    /// `kind` in a document.
    pub name: &'static str,
    /// In a path of the API, and in RBAC rules.
    pub plural: &'static str,
    /// Empty: the core of Kubernetes.
    pub group: &'static str,
    /// Every version that is read, all alike; the last is the one to write.
    pub versions: &'static [&'static str],
}

impl Api {
    /// The version to write.
    pub fn newest(&self) -> &'static str {
        self.versions.last().copied().unwrap_or("v1")
    }
}

const NETWORKING: &str = "networking.istio.io";
const ISTIO: &[&str] = &["v1alpha3", "v1beta1", "v1"];

/// All of them.
pub const APIS: [Api; 8] = [
    Api {
        kind: Kind::ServiceEntry,
        name: "ServiceEntry",
        plural: "serviceentries",
        group: NETWORKING,
        versions: ISTIO,
    },
    Api { kind: Kind::Gateway, name: "Gateway", plural: "gateways", group: NETWORKING, versions: ISTIO },
    Api {
        kind: Kind::VirtualService,
        name: "VirtualService",
        plural: "virtualservices",
        group: NETWORKING,
        versions: ISTIO,
    },
    Api {
        kind: Kind::DestinationRule,
        name: "DestinationRule",
        plural: "destinationrules",
        group: NETWORKING,
        versions: ISTIO,
    },
    Api {
        kind: Kind::AuthorizationPolicy,
        name: "AuthorizationPolicy",
        plural: "authorizationpolicies",
        group: "security.istio.io",
        versions: &["v1beta1", "v1"],
    },
    Api { kind: Kind::Secret, name: "Secret", plural: "secrets", group: "", versions: &["v1"] },
    Api {
        kind: Kind::MeshConfig,
        name: "MeshConfig",
        plural: "meshconfigs",
        group: "egret.dev",
        versions: &["v1alpha1"],
    },
    Api {
        kind: Kind::WorkloadBinding,
        name: "WorkloadBinding",
        plural: "workloadbindings",
        group: "egret.dev",
        versions: &["v1alpha1"],
    },
];

/// The kind that is called `name` in `group`.
pub fn find(group: &str, name: &str) -> Option<&'static Api> {
    APIS.iter().find(|api| api.group == group && api.name == name)
}

#[cfg(test)]
mod tests {
    use super::APIS;

    #[test]
    fn names_are_the_kinds_own() {
        for api in &APIS {
            assert_eq!(api.kind.to_string(), api.name);
            assert_eq!(api.plural, api.plural.to_ascii_lowercase());
        }
    }
}
