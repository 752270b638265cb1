//! HBONE, both ends: HTTP/2 CONNECT over mutual TLS, one stream per captured connection (Istio's ztunnel protocol).
//!
//! `node` opens tunnels, `gateway` serves them. Knows TLS configurations but no policies, routes or namespaces.
//!
//! ```text
//!  tunnel::Tunnel ── h2 ── driver (keepalive; gather: gathered writes, flood guard) ── rustls ── net::read_ahead ── TCP
//! ```

pub mod baggage;
pub mod client;
pub mod headers;
pub mod server;
pub mod tunnel;

mod driver;
mod flood;
mod gather;
mod settings;
#[cfg(test)]
mod tests;

/// The port of HBONE.
pub const PORT: u16 = 15008;
