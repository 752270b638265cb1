//! Egret on a cluster: everything that speaks to the Kubernetes API, and the only module that names `kube`.
//!
//! `app` connects once per process and hands parts of it to the roles. What is read arrives as plain types in
//! [`tokio::sync::watch`] channels, so that `node`, `hbone` and `gateway` know nothing of Kubernetes. Decides nothing.

pub mod ask;
pub mod ca_keys;
pub mod ca_root;
pub mod callers;
pub mod cluster;
pub mod configuration;
mod connection;
pub mod endpoints;
pub mod events;
pub mod outside;
pub mod own;
pub mod pods;
pub mod ranges;
pub mod removal;
pub mod scene;
pub mod standing;
mod watching;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use cluster::Cluster;
pub use outside::Outside;

/// Labels, annotations, conditions and objects that Egret gives a meaning. Part of what operators may rely on.
pub mod names {
    /// The ConfigMap with the mesh-wide settings, in Egret's own namespace.
    pub const MESH: &str = "egret-mesh";
    /// Its key: one MeshConfig document.
    pub const MESH_KEY: &str = "mesh.yaml";
    /// The label of namespaces and pods that says whether they are captured: `enabled` or `disabled`.
    pub const EGRESS: &str = "egret.dev/egress";
    /// The condition of a pod that says whether it is captured.
    pub const CAPTURED: &str = "egret.dev/Captured";
    /// Selects the pods of Egret itself.
    pub const OURS: &str = "app.kubernetes.io/name=egret";
    /// The ConfigMap that orders the agents to take everything away, in Egret's own namespace.
    pub const UNINSTALL: &str = "egret-uninstall";
    /// Condition of an agent's pod: it has done so.
    pub const REMOVED: &str = "egret.dev/Removed";
    /// Selects the agents' pods.
    pub const AGENTS: &str = "app.kubernetes.io/name=egret,app.kubernetes.io/component=agent";
    /// The Secret with the CA's keys; also the name of the CA's Service and service account.
    pub const CA: &str = "egret-ca";
    /// The ConfigMap with the mesh's root certificates, in Egret's own namespace.
    pub const CA_ROOT: &str = "egret-ca-root";
    /// Its key, as in Istio's.
    pub const CA_ROOT_KEY: &str = "root-cert.pem";
    /// The name of the CA's port in its Service.
    pub const CA_PORT: &str = "grpc-ca";
}

/// The metadata of an object that a part of Egret makes in its own namespace.
fn own_object(name: &str, component: &str) -> ObjectMeta {
    let label = |key: &str, value: &str| (format!("app.kubernetes.io/{key}"), value.to_owned());
    ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some([label("name", "egret"), label("component", component)].into()),
        ..ObjectMeta::default()
    }
}
