//! The node agent's work: enrolling workloads, accepting what the kernel captured from them, and carrying it to the gateway.
//!
//! `app::agent` builds it. It never parses the application's bytes to decide anything (design D1); queries to captured resolvers
//! are for `node::dns` to answer.

pub mod agent;
pub mod binding;
pub mod cgroup;
mod check;
mod connection;
pub mod counters;
mod description;
mod dial;
mod directories;
mod dns;
pub mod foreign;
mod gateways;
pub mod guard;
mod handover;
mod hop;
mod life;
mod links;
mod listener;
mod lock;
pub mod locks;
mod netlink;
pub mod netns;
pub mod observed;
pub mod pods;
mod port_block;
mod presence;
mod processes;
mod refuse;
mod removal;
mod residents;
pub mod resolvers;
mod routes;
pub mod sockets;
pub mod workload;
