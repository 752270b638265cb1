//! One reader per kind: document tree → model object, with every problem reported at its field.

mod authorization_policy;
mod destination_rule;
mod existing_connections;
mod gateway;
mod http_route;
mod mesh_config;
mod secret;
mod service_entry;
mod virtual_service;
mod workload_binding;

use std::{collections::BTreeMap, sync::Arc};

use super::fields::{Field, Fields};
use crate::mesh::{
    AuthorizationPolicy, Credential, DestinationRule, Gateway, Kind, MeshSettings, ObjectRef, Selector,
    ServiceEntry, VirtualService, WorkloadBinding,
};

/// What every object has.
pub(super) struct Meta {
    /// Its name.
    pub(super) object: ObjectRef,
    /// `metadata.annotations`.
    pub(super) annotations: BTreeMap<String, String>,
    /// `metadata.creationTimestamp`, or empty.
    pub(super) created: Arc<str>,
}

/// A valid object.
#[derive(Clone, Debug)]
pub(super) enum Item {
    ServiceEntry(Arc<ServiceEntry>),
    Gateway(Arc<Gateway>),
    VirtualService(Arc<VirtualService>),
    DestinationRule(Arc<DestinationRule>),
    /// `None`: without effect (`AUDIT`, dry run).
    Policy(Option<Arc<AuthorizationPolicy>>),
    /// `None`: holds no TLS material.
    Credential(Option<Arc<Credential>>),
    Settings(Box<MeshSettings>),
    Binding(Arc<WorkloadBinding>),
}

/// Reads an object. It is valid if the document has no problem that is an error; `None` is never valid.
pub(super) fn read(meta: &Meta, mut document: Fields<'_>) -> Option<Item> {
    document.ignore(&["apiVersion", "kind", "metadata", "status"]);
    if meta.object.kind == Kind::Secret {
        return Some(Item::Credential(secret::read(meta, document).map(Arc::new)));
    }
    let spec = document.raw("spec");
    document.finish();
    let spec = spec?.fields()?;
    Some(match meta.object.kind {
        Kind::ServiceEntry => Item::ServiceEntry(Arc::new(service_entry::read(meta, spec)?)),
        Kind::Gateway => Item::Gateway(Arc::new(gateway::read(meta, spec)?)),
        Kind::VirtualService => Item::VirtualService(Arc::new(virtual_service::read(meta, spec))),
        Kind::DestinationRule => Item::DestinationRule(Arc::new(destination_rule::read(meta, spec)?)),
        Kind::AuthorizationPolicy => Item::Policy(authorization_policy::read(meta, spec).map(Arc::new)),
        Kind::MeshConfig => Item::Settings(Box::new(mesh_config::read(spec))),
        Kind::WorkloadBinding => Item::Binding(Arc::new(workload_binding::read(meta, spec)?)),
        Kind::Secret => return None,
    })
}

/// A `selector` or `workloadSelector` with `matchLabels`.
fn match_labels(field: Option<Field<'_>>) -> Option<Selector> {
    let mut fields = field?.fields()?;
    let labels = fields.take("matchLabels").map(|labels| checked_labels(&labels));
    fields.finish();
    Some(Selector(labels.unwrap_or_default()))
}

fn checked_labels(field: &Field<'_>) -> BTreeMap<String, String> {
    let labels = field.labels();
    if labels.iter().any(|(key, value)| key.is_empty() || key.contains('*') || value.contains('*')) {
        field.refuse("labels are compared as they are; `*` is not allowed");
    }
    labels
}
