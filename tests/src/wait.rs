//! Waiting for a state, with a deadline, and giving up when the user does.
//!
//! Everything in the harness that waits comes here, so that Ctrl-C in `cargo xtask demo` ends every wait at once.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

const INTERVAL: Duration = Duration::from_millis(20);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ends every wait of this process, now and later, with an error. Safe to call in a signal handler.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Whether [`interrupt`] was called.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Polls until `state` gives a value. `what` completes "waited … for".
pub fn until<T>(what: &str, patience: Duration, mut state: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = state()? {
            return Ok(value);
        }
        if interrupted() {
            bail!("interrupted while waiting for {what}");
        }
        if Instant::now() >= deadline {
            bail!("waited {patience:?} for {what}, in vain");
        }
        thread::park_timeout(INTERVAL);
    }
}

/// Like [`until`] for things that hold or do not, without regard to [`interrupt`]: for cleaning up.
pub fn settled(patience: Duration, mut state: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if state() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::park_timeout(INTERVAL);
    }
}
