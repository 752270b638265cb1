//! Composition roots: what each role is made of, and in which order it starts and ends. Nothing clever.
//!
//! `cli` calls one of them per process.

pub mod agent;
pub mod ca;
pub mod cleanup;
pub mod gateway;
mod health;
pub(crate) mod listen;
mod metrics;
pub(crate) mod port;
mod role;
pub mod run_dir;
mod settings;
mod shutdown;
mod take_over;
pub mod up;

pub use settings::{Ending, FLOW_CAPACITY, Settings, Source};
