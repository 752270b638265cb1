//! HBONE, both ends: HTTP/2 CONNECT over mutual TLS, one stream per captured connection (Istio's ztunnel protocol).
//!
//! `node` opens tunnels, `gateway` serves them. Knows TLS configurations but no policies, routes or namespaces.

pub mod client;
pub mod headers;
pub mod server;
pub mod tunnel;

/// The port of HBONE.
pub const PORT: u16 = 15008;
