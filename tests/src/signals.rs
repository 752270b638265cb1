//! Ctrl-C and SIGTERM end every wait, so that a task or a benchmark unwinds and cleans up.

use anyhow::{Context as _, Result};
use nix::{
    libc::c_int,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};

use crate::wait;

extern "C" fn interrupt(_: c_int) {
    wait::interrupt();
}

/// From now on SIGINT, SIGTERM and SIGHUP interrupt instead of killing. Children start with the defaults again.
pub fn handle() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(interrupt), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler stores into an atomic, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("cannot handle {signal}"))?;
    }
    Ok(())
}
