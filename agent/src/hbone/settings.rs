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
/// Streams that a peer may open and reset before we accepted them (H2-01, rapid reset). As many as one read brings: a workload that
/// looks for open ports, and closes each at once, ends no other flow of its own. `flood` bounds how often.
pub(super) const MAX_PENDING_RESETS: usize = 1024;
/// Streams we reset and still remember, so that data already on its way to them is no error of the connection.
pub(super) const REMEMBERED_RESETS: usize = 4096;
/// How long we remember them.
pub(super) const REMEMBER_RESETS_FOR: Duration = Duration::from_secs(10);

/// From the first SYN to a connection the gateway has accepted.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From CONNECT to its answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// From the wish for a tunnel to the answer of one gateway or another.
pub(super) const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one gateway is waited for while there is another that is as good.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);
/// A client connection without streams is closed after this many beats of [`CLIENT_PACE`].
pub(super) const IDLE_BEATS: u32 = 60;
/// How long the kernel waits for the peer to acknowledge what it was sent.
pub(super) const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// How soon a peer that is gone is noticed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Between two beats; with every beat there is a ping while the connection is busy.
    pub(super) beat: Duration,
    /// While it is idle there is one with every so-manieth beat only.
    pub(super) idle_beats: u32,
    /// A connection that stays silent for this long after a ping is dead.
    pub(super) timeout: Duration,
}

/// The agent's: a gateway's node that is lost is noticed within 3.5 s. Longer than the three retransmissions of TCP that a short
/// disturbance of the network takes, shorter than people wait.
pub(super) const CLIENT_PACE: Pace =
    Pace { beat: Duration::from_secs(1), idle_beats: 5, timeout: Duration::from_millis(2500) };

/// The gateway's: what it keeps for an agent that is gone costs memory only.
pub(super) const SERVER_PACE: Pace =
    Pace { beat: Duration::from_secs(5), idle_beats: 1, timeout: Duration::from_secs(10) };
