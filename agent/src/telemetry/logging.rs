//! The operators' log: lines on stderr, `EGRET_LOG` filters them (tracing-subscriber `EnvFilter` syntax).
//!
//! Levels: ERROR needs a human, WARN is an oddity that mends itself, INFO a change of state, DEBUG one line per connection.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// Without `EGRET_LOG`. What is in the way at the Kubernetes API is said by `kubernetes`, once and not at every try.
const FILTER: &str = "info,h2=warn,hyper=warn,kube_runtime=error,kube_client=off";

/// Starts the log of this process.
pub fn init() {
    let filter = EnvFilter::try_from_env("EGRET_LOG").unwrap_or_else(|_| EnvFilter::new(FILTER));
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(ansi)
        // A log whose reader is gone must not end the process: complaining about it to the same stderr would panic.
        .log_internal_errors(false)
        .init();
}
