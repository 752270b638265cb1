//! WebSockets: an upgrade that the upstream agrees to becomes a byte stream.

use std::sync::Arc;

use ::http::{
    HeaderMap, HeaderValue, Response,
    header::{CONNECTION, UPGRADE},
};

use super::{
    body::{Answered, ResponseBody},
    exchange::{Revoked, refuse},
    headers,
    http1::server::Upgraded,
};
use crate::{
    gateway::{originate::Stream, record::Record, tunnel::Session},
    net::{
        copy::{Tally, bidirectional},
        rewind::Rewind,
    },
    reason::{Reason, Refusal},
};

const WEBSOCKET: &str = "websocket";

/// What an upgrade asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    WebSocket,
    /// Cleartext HTTP/2, which RFC 9113 made obsolete.
    H2c,
    Other,
}

/// The upgrade a request asks for.
pub(super) fn requested(headers: &HeaderMap) -> Option<Kind> {
    let named = headers::has_option(headers, b"upgrade");
    let mut offers = headers.get_all(UPGRADE).iter();
    let offer = offers.next().filter(|_| named)?;
    Some(match (offer.as_bytes(), offers.next()) {
        (offer, None) if offer.eq_ignore_ascii_case(WEBSOCKET.as_bytes()) => Kind::WebSocket,
        (offer, None) if offer.eq_ignore_ascii_case(b"h2c") => Kind::H2c,
        _ => Kind::Other,
    })
}

/// Asks the next hop for a WebSocket.
pub(super) fn ask(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
}

/// Two connections that speak WebSocket from now on, once the workload has been told so.
pub(in crate::gateway) struct Join {
    session: Arc<Session>,
    upstream: Rewind<Stream>,
    record: Record,
    revoked: Revoked,
}

/// Passes the upstream's 101 on.
pub(super) fn accept(
    session: Arc<Session>,
    answer: Response<Answered>,
    record: Record,
    revoked: Revoked,
) -> Response<ResponseBody> {
    let (mut parts, body) = answer.into_parts();
    headers::remove_hop_by_hop(&mut parts.headers);
    ask(&mut parts.headers);
    let upstream = match body {
        Answered::Http1(answer) => answer.into_upgraded(),
        Answered::Http2(_) => None,
    };
    let Some(upstream) = upstream else {
        let detail =
            "the upstream switched protocols before it had the request, or on a connection of several";
        return refuse(record, &Refusal::new(Reason::UpstreamReset, detail));
    };
    Response::from_parts(parts, ResponseBody::joined(Join { session, upstream, record, revoked }))
}

impl Join {
    /// Carries bytes both ways until both ends are done, or a policy says no.
    pub(in crate::gateway) async fn carry(self, mut downstream: Upgraded) {
        let Self { session, mut upstream, mut record, revoked } = self;
        let tally = Tally::default();
        let idle = session.gateway.settings.tcp_idle_timeout;
        record.completed();
        let result = tokio::select! {
            result = bidirectional(&mut downstream, &mut upstream, &tally, idle) => result.map_err(|e| e.to_string()),
            refusal = revoked => {
                record.failed(&refusal);
                Err(refusal.detail)
            }
        };
        let (received, sent) = tally.bytes();
        record.note(|entry| {
            (entry.bytes_received, entry.bytes_sent) = (received, sent);
            entry.connection_termination_details = result.err();
        });
    }
}
