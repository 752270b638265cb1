//! The client of the benchmark, in a process of its own (`egret-bench load`), so that it can be in the cgroup and the network
//! namespace of a workload. One kind of load per run; what came of it is written as JSON.
//!
//! It reads the proxies' processor time and memory itself, at the very moments at which its window begins and ends. An answer
//! that is not the expected one ends it with an error: what fails has no figures.

mod bulk;
mod closed;
mod connection;
mod idle;
mod latency;
mod meter;
mod open;
mod probe;
mod reader;
mod window;

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;

use self::connection::Target;

/// What to do, and to whom.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// What to do
    #[arg(long, value_enum)]
    kind: Kind,
    /// Address that is dialled
    #[arg(long)]
    target: SocketAddr,
    /// Dial TLS, with the client certificate of this directory
    #[arg(long)]
    tls: Option<PathBuf>,
    /// Cgroup of the proxies, whose processor time and memory is read
    #[arg(long)]
    proxies: Option<PathBuf>,
    /// Connections at a time
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Requests per second, of the fixed schedule
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
    /// Milliseconds before the window
    #[arg(long, default_value_t = 500)]
    warm_up: u64,
    /// Milliseconds of the window
    #[arg(long, default_value_t = 2_000)]
    window: u64,
    /// How many idle flows to hold when memory is read, ascending
    #[arg(long, value_delimiter = ',')]
    flows: Vec<usize>,
    /// The status that a probe has to get
    #[arg(long, default_value_t = 200)]
    status: u16,
    /// The path that a probe asks for
    #[arg(long, default_value = "/")]
    path: String,
    /// What the answer to a probe has to begin with
    #[arg(long, default_value = "")]
    body: String,
    /// Where what came of it is written
    #[arg(long)]
    report: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// One request after the other on every connection
    Closed,
    /// Requests at fixed times, latencies from those times
    Open,
    /// A new connection for every request
    Fresh,
    /// Large answers, one after the other on one connection
    Down,
    /// Large requests, one after the other on one connection
    Up,
    /// Connections on which one request was made
    Idle,
    /// One request, tried until it succeeds
    Probe,
}

/// Does it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let target = Target::new(options.target, options.tls.as_deref())?;
    let report = match options.kind {
        Kind::Open => open::run(options, &target),
        kind => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            tokio::task::LocalSet::new().block_on(&runtime, asynchronous(kind, options, target))
        }
    }?;
    fs::write(&options.report, report.to_string())
        .with_context(|| format!("cannot write {}", options.report.display()))
}

async fn asynchronous(kind: Kind, options: &Options, target: Target) -> Result<Value> {
    match kind {
        Kind::Fresh => closed::run(options, target, closed::Connections::Fresh).await,
        Kind::Down => bulk::run(options, &target, bulk::Direction::Down).await,
        Kind::Up => bulk::run(options, &target, bulk::Direction::Up).await,
        Kind::Idle => idle::run(options, target).await,
        Kind::Probe => probe::run(options, &target).await,
        Kind::Closed | Kind::Open => closed::run(options, target, closed::Connections::Kept).await,
    }
}

impl Options {
    fn warm_up(&self) -> Duration {
        Duration::from_millis(self.warm_up)
    }

    fn window(&self) -> Duration {
        Duration::from_millis(self.window)
    }
}
