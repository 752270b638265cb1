//! Traces: a span for every traced request and connection of the gateway, by OTLP to a collector.
//!
//! `gateway::record` begins and finishes spans, `app::gateway` runs the exporter. `context` decides (pure), `span` says what a span
//! consists of (pure), `export` sends. Nothing on the way of a request waits for the collector: what does not fit into the
//! queue is lost and counted. Without a collector there is none of this, and requests pass as they are.

pub mod context;
mod endpoint;
mod export;
mod span;

pub use self::{
    endpoint::{Endpoint, Percent, Tracing},
    export::{Exporting, Traces},
    span::Finished,
};
