//! The three legs of a flow: workload → agent, agent → gateway, gateway → external server. Parts of a
//! [`FlowRecord`](super::FlowRecord).
//!
//! Agent and gateway fill in what they see: the agent the workload's leg and the tunnel's, the gateway the tunnel's and the upstream's.
//! What belongs to a connection that several flows share is kept once, and shared. All times are microseconds.

use std::{net::SocketAddr, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::TcpFigures;

/// What is known of each leg.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Legs {
    /// The captured connection; only the agent knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<Box<WorkloadLeg>>,
    /// The tunnel, from whoever recorded this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Box<TunnelLeg>>,
    /// The connection to the external server; only the gateway knows it. Of several that HTTP requests used, the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<Box<UpstreamLeg>>,
}

/// The captured connection, which is on loopback; or a bypassed one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkloadLeg {
    /// Of a bypassed connection: from `connect()` to the other side's answer; absent: there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_us: Option<u64>,
    /// The kernel's figures of the agent's end of it; of a bypassed one, of the workload's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Box<TcpFigures>>,
}

/// One CONNECT stream, and the connection that carries it with others.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TunnelLeg {
    /// What it shares with other tunnels of that connection.
    #[serde(flatten)]
    pub connection: Arc<TunnelConnection>,
    /// The agent: whether the connection was there already. Absent at the gateway.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reused: Option<bool>,
    /// The agent: until it had the workload's certificate, nearly always at once. Absent at the gateway.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub certificate_us: Option<u64>,
    /// The agent: from the wish for a tunnel to the gateway's answer, with a new connection where there was none. Absent at the gateway.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub setup_us: Option<u64>,
    /// The kernel's figures of the connection: of all tunnels over it together, since it was made.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tcp: Option<Box<TcpFigures>>,
}

/// A tunnel connection: HTTP/2 over mutual TLS over TCP.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TunnelConnection {
    /// The gateway, by the address it has for who recorded this.
    pub gateway: SocketAddr,
    /// The agent: how long TCP, TLS and HTTP/2 took to begin.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub established_us: Option<u64>,
    /// TLS on it.
    #[serde(flatten, skip_serializing_if = "Option::is_none", default)]
    pub tls: Option<TlsSession>,
    /// The workload's certificate on it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub certificate: Option<CertificateName>,
}

/// What two ends of TLS agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsSession {
    /// Such as `TLSv1.3`.
    pub tls_version: Arc<str>,
    /// Such as `TLS13_AES_128_GCM_SHA256`.
    pub tls_cipher: Arc<str>,
}

/// Which certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateName {
    /// Its serial number, hexadecimal.
    pub serial: Arc<str>,
    /// Its last second.
    pub not_after: Timestamp,
}

/// A connection to an external server, and how it served this flow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UpstreamLeg {
    /// What it may share with other flows: HTTP connections are pooled.
    #[serde(flatten)]
    pub connection: Arc<UpstreamConnection>,
    /// Whether the connection was there already: its set-up times are not this flow's.
    pub reused: bool,
    /// Until its name was resolved; absent where none was to be, such as with `resolution: STATIC`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub dns_us: Option<u64>,
    /// From the connection to the head of the answer (HTTP, of the last request) or to the first byte from the server.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_byte_us: Option<u64>,
    /// The kernel's figures of the connection, also from before where it was reused.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tcp: Option<Box<TcpFigures>>,
}

/// A connection to an external server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UpstreamConnection {
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// Our end of it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub local: Option<SocketAddr>,
    /// Until TCP was connected.
    pub connect_us: u64,
    /// The handshake, where TLS is originated.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tls_us: Option<u64>,
    /// TLS on it, where it is originated.
    #[serde(flatten, skip_serializing_if = "Option::is_none", default)]
    pub tls: Option<TlsSession>,
    /// The name that was asked for (SNI).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sni: Option<Arc<str>>,
    /// Subject of the certificate the server presented.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peer: Option<Arc<str>>,
    /// The client certificate that was ready for it, with mode MUTUAL.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub certificate: Option<CertificateName>,
}
