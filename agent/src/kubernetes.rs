//! Egret on a cluster: everything that speaks to the Kubernetes API, and the only module that names `kube`.
//!
//! `app` connects once per process and hands parts of it to the roles. What is read arrives as plain types in
//! [`tokio::sync::watch`] channels, so that `node`, `hbone` and `gateway` know nothing of Kubernetes. Decides nothing.

pub mod cluster;
pub mod configuration;
pub mod endpoints;
pub mod own;
pub mod standing;
mod watching;

pub use cluster::Cluster;

/// Labels, annotations, conditions and objects that Egret gives a meaning. Part of what operators may rely on.
pub mod names {
    /// The ConfigMap with the mesh-wide settings, in Egret's own namespace.
    pub const MESH: &str = "egret-mesh";
    /// Its key: one MeshConfig document.
    pub const MESH_KEY: &str = "mesh.yaml";
}
