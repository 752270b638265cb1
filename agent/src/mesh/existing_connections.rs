//! What happens to connections that are older than the enrolment of their workload.

use std::time::Duration;

/// What happens to connections that a workload has open to the outside when it is enrolled (MeshConfig `existingConnections`).
/// Those that came in from outside always go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExistingConnections {
    /// They are named, and go on.
    #[default]
    Report,
    /// They are named, and reset when so much time has passed.
    KeepUntil(Duration),
    /// They are reset at once.
    Reset,
}
