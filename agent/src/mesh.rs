//! The pure model that every configuration source compiles to, and that `route` and `authz` read.
//!
//! Knows no YAML, no Kubernetes client and no I/O; `source` fills it, the engines only read it.

mod credential;
mod identity;
mod object;
mod settings;
mod snapshot;

pub use credential::Credential;
pub use identity::{IdentityError, SpiffeId};
pub use object::{Kind, ObjectRef};
pub use settings::{GatewaySettings, MeshSettings, OutboundTrafficPolicy};
pub use snapshot::Snapshot;
