//! To whom an object applies: label selectors and `exportTo`.

use std::{collections::BTreeMap, sync::Arc};

/// A selector over the egress gateway's labels: all given labels must be there with these values; none given matches all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(pub BTreeMap<String, String>);

impl Selector {
    /// Whether `labels` carry everything asked for.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// The namespaces that see an object (`exportTo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ExportTo {
    /// Everyone: `*`, and the default.
    #[default]
    All,
    /// These; `.` has been resolved to the object's own namespace, and `~` is the empty list.
    Namespaces(Vec<Arc<str>>),
}

impl ExportTo {
    /// Whether one of `namespaces` sees the object.
    pub fn visible(&self, namespaces: &[&str]) -> bool {
        match self {
            Self::All => true,
            Self::Namespaces(list) => list.iter().any(|own| namespaces.contains(&&**own)),
        }
    }
}
