//! How a workload is described to the gateway, and in the agent's own flow records.
//!
//! Made anew when something changes: when the workload is enrolled, and for a pod when the API server has said what it belongs to
//! (`node::pods`). Until then, as after a restart of the agent, no more is said than the identity does.

use std::sync::Arc;

use super::workload::{Origin, Workload};
use crate::hbone::baggage::{Baggage, Owner};

/// A description, and the header that bears it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Description {
    baggage: Baggage,
    header: Arc<str>,
}

impl Description {
    /// What is known of a workload without its pod.
    pub(super) fn of(workload: &Workload) -> Arc<Self> {
        let owner = match &workload.origin {
            // A WorkloadBinding is to a machine's cgroups what a Deployment is to its pods.
            Origin::Binding(binding) => {
                let name = binding.split_once('/').map_or(&**binding, |(_, name)| name);
                Some(Owner { kind: "workloadbinding".into(), name: name.into() })
            }
            Origin::Exec | Origin::Hand | Origin::Pod { .. } => None,
        };
        let namespace = Some(workload.identity.namespace().into());
        Self::new(Baggage { namespace, owner, ..Baggage::default() })
    }

    /// As a baggage says.
    pub(super) fn new(baggage: Baggage) -> Arc<Self> {
        Arc::new(Self { header: baggage.to_string().into(), baggage })
    }

    /// What it says.
    pub(super) fn baggage(&self) -> &Baggage {
        &self.baggage
    }

    /// The value of the `baggage` header.
    pub(super) fn header(&self) -> Arc<str> {
        Arc::clone(&self.header)
    }
}

#[cfg(test)]
mod tests {
    use super::{Description, Origin, Workload};

    #[test]
    fn a_machine_says_no_more_than_it_knows() {
        let text = r#"{"id":1,"identity":"spiffe://td/ns/shop/sa/cart","cgroup":"/c","cgroup_inode":7}"#;
        let exec: Workload = serde_json::from_str(text).unwrap();
        assert_eq!(&*Description::of(&exec).header(), "k8s.namespace.name=shop");
        let bound = Workload { origin: Origin::Binding("shop/backup".to_owned()), ..exec };
        let expected = "k8s.namespace.name=shop,k8s.workloadbinding.name=backup";
        assert_eq!(&*Description::of(&bound).header(), expected);
    }
}
