//! WebSockets: an upgrade that the upstream agrees to becomes a byte stream.

use std::sync::Arc;

use ::http::{
    Extensions, HeaderMap, HeaderValue, Response,
    header::{CONNECTION, UPGRADE},
};
use bytes::Bytes;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;

use super::{body::ResponseBody, exchange::Revoked, headers};
use crate::{
    gateway::{record::Record, tunnel::Session},
    net::copy::{Tally, bidirectional},
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

/// The upgrade a request asks for; the guard asks the same two fields.
pub(super) fn requested(headers: &HeaderMap) -> Option<Kind> {
    let named = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"));
    let mut offers = headers.get_all(UPGRADE).iter();
    let offer = offers.next().filter(|_| named)?;
    Some(match (offer.as_bytes(), offers.next()) {
        (offer, None) if offer.eq_ignore_ascii_case(WEBSOCKET.as_bytes()) => Kind::WebSocket,
        (offer, None) if offer.eq_ignore_ascii_case(b"h2c") => Kind::H2c,
        _ => Kind::Other,
    })
}

/// The workload's end of the upgrade.
pub(super) fn take(extensions: &mut Extensions) -> Option<OnUpgrade> {
    extensions.remove()
}

/// Ends a connection whose upgrade was declined, when its time has come. hyper hands it over all the same, as it is; dropped,
/// it would be reset, and the answer with it.
pub(super) async fn close(connection: OnUpgrade) {
    if let Ok(io) = connection.await {
        // A client that has gone meanwhile needs no farewell.
        let _ = TokioIo::new(io).shutdown().await;
    }
}

/// Asks the next hop for a WebSocket.
pub(super) fn ask(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(WEBSOCKET));
}

/// Passes the upstream's 101 on, and joins the two connections once it is written.
pub(super) fn accept(
    session: Arc<Session>,
    mut response: Response<Incoming>,
    downstream: OnUpgrade,
    mut record: Record,
    revoked: Revoked,
) -> Response<ResponseBody> {
    headers::remove_hop_by_hop(response.headers_mut());
    ask(response.headers_mut());
    let upstream = hyper::upgrade::on(&mut response);
    tokio::spawn(async move {
        match tokio::try_join!(downstream, upstream) {
            Ok((left, right)) => {
                let (mut left, mut right) = (TokioIo::new(left), TokioIo::new(right));
                let tally = Tally::default();
                let idle = session.gateway.settings.tcp_idle_timeout;
                record.completed();
                let result = tokio::select! {
                    result = bidirectional(&mut left, &mut right, &tally, idle) => result.map_err(|e| e.to_string()),
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
            Err(error) => {
                let detail = format!("the connection ended before it was upgraded: {error}");
                record.failed(&Refusal::new(Reason::ClientGone, detail));
            }
        }
    });
    response.map(|_| ResponseBody::local(Bytes::new(), None))
}
