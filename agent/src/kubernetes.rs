//! Egret on a cluster: everything that speaks to the Kubernetes API, and the only module that names `kube`.
//!
//! `app` connects once per process and hands parts of it to the roles. What is read arrives as plain types in
//! [`tokio::sync::watch`] channels, so that `node`, `hbone` and `gateway` know nothing of Kubernetes. Decides nothing.

pub mod ask;
pub mod cluster;
pub mod configuration;
pub mod endpoints;
pub mod outside;
pub mod own;
pub mod pods;
pub mod scene;
pub mod standing;
mod watching;

pub use cluster::Cluster;
pub use outside::Outside;

/// Labels, annotations, conditions and objects that Egret gives a meaning. Part of what operators may rely on.
pub mod names {
    /// The ConfigMap with the mesh-wide settings, in Egret's own namespace.
    pub const MESH: &str = "egret-mesh";
    /// Its key: one MeshConfig document.
    pub const MESH_KEY: &str = "mesh.yaml";
    /// The ConfigMap in which the CA publishes its root certificate, in Egret's own namespace.
    pub const ROOT: &str = "egret-ca-root";
    /// Its key.
    pub const ROOT_KEY: &str = "root-cert.pem";
    /// The label of namespaces and pods that says whether they are captured: `enabled` or `disabled`.
    pub const EGRESS: &str = "egret.dev/egress";
    /// The condition of a pod that says whether it is captured.
    pub const CAPTURED: &str = "egret.dev/Captured";
    /// Selects the pods of Egret itself.
    pub const OURS: &str = "app.kubernetes.io/name=egret";
}
