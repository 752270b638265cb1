//! One reader per kind: document tree → model object, with every problem reported at its field.

mod authorization_policy;
mod destination_rule;
mod gateway;
mod http_route;
mod mesh_config;
mod secret;
mod service_entry;
mod virtual_service;

use std::{collections::BTreeMap, sync::Arc};

use super::fields::{Field, Fields};
use crate::mesh::{
    AuthorizationPolicy, Credential, DestinationRule, Gateway, Kind, MeshSettings, ObjectRef, Selector,
    ServiceEntry, VirtualService,
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
}

/// Reads an object. `None` where it could not be read at all; whoever calls looks at the problems too.
pub(super) fn read(meta: &Meta, mut document: Fields<'_>) -> Option<Item> {
    document.ignore(&["apiVersion", "kind", "metadata", "status"]);
    if meta.object.kind == Kind::Secret {
        return secret::read(meta, document).map(|it| Item::Credential(it.map(Arc::new)));
    }
    let spec = document.raw("spec");
    document.finish();
    let spec = match spec {
        Some(spec) => spec.fields()?,
        None => return None,
    };
    match meta.object.kind {
        Kind::ServiceEntry => service_entry::read(meta, spec).map(|it| Item::ServiceEntry(Arc::new(it))),
        Kind::Gateway => gateway::read(meta, spec).map(|it| Item::Gateway(Arc::new(it))),
        Kind::VirtualService => {
            virtual_service::read(meta, spec).map(|it| Item::VirtualService(Arc::new(it)))
        }
        Kind::DestinationRule => {
            destination_rule::read(meta, spec).map(|it| Item::DestinationRule(Arc::new(it)))
        }
        Kind::AuthorizationPolicy => {
            authorization_policy::read(meta, spec).map(|it| Item::Policy(it.map(Arc::new)))
        }
        Kind::MeshConfig => mesh_config::read(spec).map(|it| Item::Settings(Box::new(it))),
        Kind::Secret => None,
    }
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
