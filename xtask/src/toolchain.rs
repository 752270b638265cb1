//! The toolchain of the kernel programs. Placeholder.

/// Finds or installs what the build needs.
pub(crate) fn ensure() -> anyhow::Result<()> {
    Ok(())
}
