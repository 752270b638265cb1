//! WorkloadBinding: which cgroups of a machine are workloads, and under which identity. Pure: paths in, yes or no out.
//!
//! `source::kinds` fills it, `node::binding` asks it about the cgroups there are.

use std::sync::Arc;

use super::{CgroupSelector, ExistingConnections, ObjectRef};

/// A WorkloadBinding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadBinding {
    /// Its name; its namespace is the identity's.
    pub object: ObjectRef,
    /// `metadata.creationTimestamp`, or empty.
    pub created: Arc<str>,
    /// The service account of the identity.
    pub service_account: Arc<str>,
    /// Which cgroups; one is enough.
    pub cgroups: Vec<CgroupSelector>,
    /// Whatever starts beside them cannot get out until it is known whether it is one of them. Every selector has a parent then.
    pub strict_start: bool,
    /// What happens to connections that they have when they are enrolled; None: as the mesh says.
    pub existing_connections: Option<ExistingConnections>,
}

impl WorkloadBinding {
    /// Whether it selects the cgroup whose path from the root has these parts.
    pub fn selects(&self, path: &[&str]) -> bool {
        self.cgroups.iter().any(|selector| selector.matches(path))
    }

    /// Whether it can select a cgroup below this one.
    pub fn leads_below(&self, path: &[&str]) -> bool {
        self.cgroups.iter().any(|selector| selector.leads_below(path))
    }

    /// Its name as `namespace/name`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.object.namespace, self.object.name)
    }
}
