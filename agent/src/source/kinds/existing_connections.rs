//! Reads `existingConnections`, of MeshConfig and of whatever enrols workloads.

use crate::{
    mesh::ExistingConnections,
    source::{fields::Field, scalars},
};

#[derive(Clone, Copy)]
enum Mode {
    Report,
    KeepUntil,
    Reset,
}

/// None: refused, and reported.
pub(in crate::source) fn read(field: &Field<'_>) -> Option<ExistingConnections> {
    let mut fields = field.fields()?;
    let mode = fields.need("mode").and_then(|mode| {
        mode.one_of(&[("REPORT", Mode::Report), ("KEEP_UNTIL", Mode::KeepUntil), ("RESET", Mode::Reset)])
    });
    let read = match mode {
        Some(Mode::KeepUntil) => fields
            .need("keepFor")
            .and_then(|keep| keep.parse(scalars::duration))
            .map(ExistingConnections::KeepUntil),
        other => {
            if let Some(keep) = fields.take("keepFor") {
                keep.refuse(
                    "says how long KEEP_UNTIL keeps connections, and means nothing with another mode",
                );
            }
            other.map(|mode| match mode {
                Mode::Reset => ExistingConnections::Reset,
                Mode::Report | Mode::KeepUntil => ExistingConnections::Report,
            })
        }
    };
    fields.finish();
    read
}
