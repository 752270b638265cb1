//! The kinds that configuration is made of: where they are in the API, and which of their objects are read.

use std::collections::BTreeSet;

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, GroupVersionKind},
    runtime::watcher,
};

use super::{
    super::{names, watching::first},
    Scope,
};
use crate::mesh::MeshSettings;

/// One kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// The ConfigMap with the settings.
    Settings,
    ServiceEntry,
    Gateway,
    VirtualService,
    DestinationRule,
    AuthorizationPolicy,
    /// Those of Egret's own namespace.
    Secret,
}

/// Everything, in the order of reading.
pub(super) const ALL: [Subject; 7] = [
    Subject::Settings,
    Subject::ServiceEntry,
    Subject::Gateway,
    Subject::VirtualService,
    Subject::DestinationRule,
    Subject::AuthorizationPolicy,
    Subject::Secret,
];

/// Types of Secrets that hold TLS material; the others are nobody's business here.
pub(super) const SECRET_TYPES: [&str; 2] = ["Opaque", "kubernetes.io/tls"];

/// Other types, of which there may be many: they need not be sent at all.
const OTHER_TYPES: [&str; 4] = [
    "kubernetes.io/service-account-token",
    "helm.sh/release.v1",
    "kubernetes.io/dockerconfigjson",
    "bootstrap.kubernetes.io/token",
];

impl Subject {
    /// What a role needs under these settings.
    pub(super) fn wanted(scope: Scope, settings: &MeshSettings) -> BTreeSet<Self> {
        match scope {
            Scope::Gateway => ALL.into(),
            Scope::Agent if settings.dns_capture => [Self::Settings, Self::ServiceEntry].into(),
            Scope::Agent | Scope::Ca => [Self::Settings].into(),
        }
    }

    /// Group, kind and plural.
    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Settings => ("", "ConfigMap", "configmaps"),
            Self::ServiceEntry => ("networking.istio.io", "ServiceEntry", "serviceentries"),
            Self::Gateway => ("networking.istio.io", "Gateway", "gateways"),
            Self::VirtualService => ("networking.istio.io", "VirtualService", "virtualservices"),
            Self::DestinationRule => ("networking.istio.io", "DestinationRule", "destinationrules"),
            Self::AuthorizationPolicy => {
                ("security.istio.io", "AuthorizationPolicy", "authorizationpolicies")
            }
            Self::Secret => ("", "Secret", "secrets"),
        }
    }

    /// The versions that are read, the preferred one first.
    fn versions(self) -> &'static [&'static str] {
        match self {
            Self::Settings | Self::Secret => &["v1"],
            Self::AuthorizationPolicy => &["v1", "v1beta1"],
            _ => &["v1", "v1beta1", "v1alpha3"],
        }
    }

    /// As operators know it.
    pub(super) fn title(self, namespace: &str) -> String {
        let (group, kind, _) = self.names();
        match self {
            Self::Settings => settings_place(namespace),
            Self::Secret => format!("Secrets of {namespace}"),
            _ => format!("{kind} ({group})"),
        }
    }

    /// The objects of it that are read: all in one list, which an API server takes out of its memory. Pages come one after the
    /// other, and with thousands of objects that is what a gateway waits for when it starts or the API server is back.
    pub(super) fn selection(self) -> watcher::Config {
        let selection = match self {
            Self::Settings => super::super::watching::named(names::MESH),
            Self::Secret => {
                // The CA's own key is nobody's credential.
                let mut without = vec![format!("metadata.name!={}", names::CA)];
                without.extend(OTHER_TYPES.map(|kind| format!("type!={kind}")));
                watcher::Config::default().fields(&without.join(","))
            }
            _ => watcher::Config::default(),
        };
        watcher::Config { page_size: None, ..selection }
    }

    /// Where they are asked for, in one version.
    pub(super) fn api(self, client: &Client, namespace: &str, resource: &ApiResource) -> Api<DynamicObject> {
        match self {
            Self::Settings | Self::Secret => Api::namespaced_with(client.clone(), namespace, resource),
            _ => Api::all_with(client.clone(), resource),
        }
    }

    /// Finds a version that the API server serves, by asking for an object of it: unlike the lists of what it serves, that is
    /// right from its first moment on.
    pub(super) async fn discover(
        self,
        client: &Client,
        namespace: &str,
    ) -> Result<Option<ApiResource>, kube::Error> {
        let (group, kind, plural) = self.names();
        for version in self.versions() {
            let named = GroupVersionKind::gvk(group, version, kind);
            let resource = ApiResource::from_gvk_with_plural(&named, plural);
            match self.api(client, namespace, &resource).list_metadata(&first(&self.selection())).await {
                Ok(_) => return Ok(Some(resource)),
                Err(error) if is_unknown(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// The API server does not know the kind in this version.
pub(super) fn is_unknown(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// The ConfigMap with the settings, as operators know it.
pub(super) fn settings_place(namespace: &str) -> String {
    format!("ConfigMap {namespace}/{}", names::MESH)
}
