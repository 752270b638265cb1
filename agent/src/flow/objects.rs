//! The configuration objects behind a flow's verdict; of a flow with several requests those of the last one. Bounded: one of each.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::mesh::ObjectRef;

/// Who decided; the same objects as in the access log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DecidedBy {
    /// The AuthorizationPolicy and the rule of it that allowed or denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Part>,
    /// The VirtualService of the mesh stage and its route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_route: Option<Part>,
    /// The Gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Part>,
    /// The VirtualService of the gateway stage and its route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_route: Option<Part>,
    /// The ServiceEntry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_entry: Option<Part>,
    /// The DestinationRule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_rule: Option<Part>,
}

impl DecidedBy {
    /// The object that had the last word on what became of the flow, or on its way.
    pub fn last_word(&self) -> Option<&Part> {
        let Self { policy, mesh_route, gateway_route, service_entry, .. } = self;
        [policy, gateway_route, mesh_route, service_entry].into_iter().find_map(Option::as_ref)
    }
}

/// An object, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The object.
    #[serde(flatten)]
    pub object: ObjectRef,
    /// The name or index of its route, or the index of its rule.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub part: Option<Arc<str>>,
}

impl Part {
    /// All of an object.
    pub fn whole(object: ObjectRef) -> Self {
        Self { object, part: None }
    }

    /// A part of an object.
    pub fn of(object: ObjectRef, part: impl Into<Arc<str>>) -> Self {
        Self { object, part: Some(part.into()) }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, part } = self;
        match part {
            Some(part) => write!(f, "{object} [{part}]"),
            None => write!(f, "{object}"),
        }
    }
}
