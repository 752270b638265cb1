//! The connection to the Kubernetes API, and who this process is there. One per process.

use anyhow::Context as _;
use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Config, Resource};

use super::{connection, own::Own, standing::Standing};

/// The cluster that this process is a pod of.
#[derive(Clone)]
pub struct Cluster {
    pub(super) client: Client,
    /// The pod of this process.
    pub own: Own,
    /// How it stands with what is read.
    pub standing: Standing,
}

impl Cluster {
    /// The cluster around this pod: address by environment, token and certificate by the service account. Nothing is asked yet.
    pub fn around() -> anyhow::Result<Self> {
        let own = Own::from_environment()?;
        let config = Config::incluster().context(
            "the Kubernetes API cannot be found: --kubernetes is for pods with a service account token",
        )?;
        let client = connection::client(&config).context("the Kubernetes API cannot be used")?;
        Ok(Self { client, own, standing: Standing::default() })
    }

    /// Objects of Egret's own namespace.
    pub(super) fn in_own_namespace<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.own.namespace)
    }
}
