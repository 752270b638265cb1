//! The compiled configuration: immutable, shared, swapped as a whole.

use std::{collections::HashMap, sync::Arc};

use super::{Credential, MeshSettings};

/// One consistent configuration.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts up with every change; 0 is the empty configuration.
    pub version: u64,
    /// Mesh-wide settings.
    pub settings: MeshSettings,
    /// Secrets of the gateway's namespace that hold TLS material, by name.
    pub credentials: HashMap<String, Arc<Credential>>,
}
