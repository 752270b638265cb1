//! HTTP/1.1 on the wire (RFC 9112), both ends of the gateway: [`server`] towards workloads, [`client`] towards upstreams.
//!
//! Each serves one exchange at a time inside the task of the workload's connection: no task, channel or wake-up lies between the two.
//! Strict where a workload speaks, for two readings of one request would be a way past a policy; `request`, `answer`, `chunked`,
//! `decode` and `encode` are pure. Knows nothing of routes and policies.

pub(in crate::gateway) mod answer;
mod chunked;
pub(in crate::gateway) mod client;
mod decode;
mod encode;
mod out;
pub(super) mod request;
pub(super) mod server;

use ::http::{HeaderMap, StatusCode};
use bytes::Bytes;

/// The largest head, of a request and of an answer: Envoy's default limit.
const MAX_HEAD: usize = 60 * 1024;
/// The most fields of a head: Envoy's default limit.
const MAX_FIELDS: usize = 100;

/// How a body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// Whatever comes until the connection ends: answers only.
    UntilEnd,
}

/// Whether an answer has no body, whatever its fields say (RFC 9112 §6.3).
fn is_bodiless(status: StatusCode, to_head: bool) -> bool {
    to_head
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// A part of a body.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}
