//! The operators' log: lines on stderr, `EGRET_LOG` filters them (tracing-subscriber `EnvFilter` syntax; `info` without it).
//!
//! Levels: ERROR needs a human, WARN is an oddity that mends itself, INFO a change of state, DEBUG one line per connection.

use std::{env, io::IsTerminal as _};

use tracing_subscriber::EnvFilter;

/// Without `EGRET_LOG`.
const LEVEL: &str = "info";

/// Libraries that are quieter, unless `EGRET_LOG` names them. What is in the way at the Kubernetes API is said by `kubernetes`, once
/// and not at every try.
const QUIET: &str = "h2=warn,hyper=warn,kube_runtime=error,kube_client=off";

/// Starts the log of this process.
pub fn init() {
    let asked = env::var("EGRET_LOG").unwrap_or_else(|_| LEVEL.to_owned());
    let filter = filter(&asked);
    let ansi = std::io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt()
        .with_env_filter(filter.as_ref().map_or_else(|_| EnvFilter::new(LEVEL), Clone::clone))
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(ansi)
        // A log whose reader is gone must not end the process: complaining about it to the same stderr would panic.
        .log_internal_errors(false)
        .init();
    if let Err(error) = filter {
        tracing::warn!(
            "EGRET_LOG={asked} is no filter ({error}), such as info or warn,egret=debug: logging at {LEVEL}"
        );
    }
}

/// What was asked for, beside what is quiet.
fn filter(asked: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::builder().parse(format!("{QUIET},{asked}"))
}

#[cfg(test)]
mod tests {
    use super::filter;

    #[test]
    fn libraries_are_quiet_unless_they_are_named() {
        let quiet = filter("debug").unwrap().to_string();
        assert!(quiet.contains("kube_client=off") && quiet.ends_with("debug"), "{quiet}");
        let named = filter("info,kube_client=debug").unwrap().to_string();
        assert!(named.contains("kube_client=debug") && !named.contains("kube_client=off"), "{named}");
        assert!(filter("egret=loud").is_err());
    }
}
