//! What the kernel knows of one TCP connection: a record. `net::gauge` reads it from the socket (TCP_INFO).

use serde::{Deserialize, Serialize};

/// Figures of a TCP connection, from our end of it. Times are microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TcpFigures {
    /// Smoothed round-trip time (RFC 6298 SRTT).
    pub rtt_us: u32,
    /// Its mean deviation.
    pub rtt_variation_us: u32,
    /// The least round-trip time of the last minutes; 0: none was measured.
    pub min_rtt_us: u32,
    /// Segments that were sent again.
    pub retransmits: u32,
    /// Bytes that the other end has acknowledged.
    pub bytes_acked: u64,
    /// Bytes that arrived.
    pub bytes_received: u64,
    /// Segments sent, those without data included.
    pub segments_sent: u32,
    /// Segments that arrived, those without data included.
    pub segments_received: u32,
    /// How long there was something to send.
    pub busy_us: u64,
    /// … and the other end had no room for it: its reader is slow.
    pub peer_window_limited_us: u64,
    /// … and our send buffer was too small.
    pub send_buffer_limited_us: u64,
}
