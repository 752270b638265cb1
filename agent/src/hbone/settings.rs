//! The HTTP/2 settings and times of tunnels, both ends. Sizes are bytes.

use std::time::Duration;

/// Flow-control window of one stream: what a reader that stalls makes us hold.
pub(super) const STREAM_WINDOW: u32 = 1 << 20;
/// Flow-control window of one connection.
pub(super) const CONNECTION_WINDOW: u32 = 16 << 20;
/// Largest frame: h2 delivers whole frames only, so this is also the grain of latency between streams.
pub(super) const MAX_FRAME: u32 = 64 << 10;
/// Bytes of one stream that h2 keeps to send before the writer has to wait.
pub(super) const STREAM_SEND_BUFFER: usize = 256 << 10;
/// Decoded header list (H2-08); h2 itself would take 16 MiB.
pub(super) const MAX_HEADER_LIST: u32 = 64 << 10;
/// Streams of one connection at a time.
pub(super) const MAX_STREAMS: u32 = 4096;
/// Streams that a peer may open and reset before we accepted them (H2-01, rapid reset).
pub(super) const MAX_PENDING_RESETS: usize = 128;
/// Streams we reset and still remember, so that data already on its way to them is no error of the connection.
pub(super) const REMEMBERED_RESETS: usize = 4096;
/// How long we remember them.
pub(super) const REMEMBER_RESETS_FOR: Duration = Duration::from_secs(10);

/// From the first SYN to a connection the gateway has accepted.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From CONNECT to its answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Between keepalive pings.
pub(super) const PING_INTERVAL: Duration = Duration::from_secs(5);
/// A connection that stays silent for this long after a ping is dead.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// A client connection without streams is closed after this many pings.
pub(super) const IDLE_PINGS: u32 = 12;
