//! Forwards connections that are neither TLS nor HTTP, by original destination. Also the second half of `tls`.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    decide::Decided,
    originate::{self, Peer, Stream, Transport},
    record::Record,
    tunnel::Session,
    upstream,
};
use crate::{
    authz,
    mesh::Snapshot,
    net::copy::{self, Error, Side},
    reason::{Reason, Refusal},
    route::{Action, Forward, Upstream},
};

/// Serves one opaque connection to its end.
pub(super) async fn serve<IO, D>(mut io: IO, session: Arc<Session>, decide: D)
where
    IO: AsyncRead + AsyncWrite + Unpin,
    D: Fn(&Snapshot, &authz::Request<'_>) -> Decided,
{
    let mut record = Record::start(&session);
    session.flow.update(|flow| flow.protocol = Some("tcp".into()));
    let snapshot = session.gateway.snapshot();
    let decided = decide(&snapshot, &session.request(None, None));
    record.decided(&decided);
    let opened = async {
        let Forward { upstream, .. } = forward(decided.outcome)?;
        record.upstream(&upstream);
        upstream::require_tls(&upstream)?;
        open(&session, &snapshot, &upstream).await
    }
    .await;
    drop(snapshot);
    match opened {
        Ok((stream, peer)) => splice(&mut io, stream, &peer, &session, &mut record).await,
        // Dropping the stream without an end resets it: that is all an opaque client understands.
        Err(refusal) => record.failed(&refusal),
    }
}

/// The only action there is for a connection.
pub(super) fn forward(outcome: Result<Action, Refusal>) -> Result<Forward, Refusal> {
    match outcome? {
        Action::Forward(forward) => Ok(forward),
        Action::Redirect { .. } | Action::Respond { .. } => Err(Refusal::new(
            Reason::NoRoute,
            "the route answers HTTP requests itself, and this connection is not HTTP",
        )),
    }
}

/// Connects to the first endpoint of `upstream` that takes the connection.
pub(super) async fn open(
    session: &Session,
    snapshot: &Snapshot,
    upstream: &Upstream,
) -> Result<(Stream, Peer), Refusal> {
    let gateway = &session.gateway;
    let transport = Transport::prepare(gateway, snapshot, upstream, None, &[])?;
    let mut last = None;
    for address in upstream::addresses(session, upstream).await? {
        match originate::connect(address, upstream, &transport, gateway.settings.handshake_timeout).await {
            Ok(connected) => return Ok(connected),
            Err(refusal) => last = Some(refusal),
        }
    }
    Err(last
        .unwrap_or_else(|| Refusal::new(Reason::NoEndpoint, format!("{} has no endpoint", upstream.cluster))))
}

/// Copies both ways until the end, and passes a reset on.
pub(super) async fn splice<IO>(
    io: &mut IO,
    mut stream: Stream,
    peer: &Peer,
    session: &Session,
    record: &mut Record,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    record.peer(peer);
    let idle = session.gateway.settings.tcp_idle_timeout;
    let result = copy::bidirectional(io, &mut stream, &*session.flow, idle).await;
    let (sent, received) = session.flow.bytes();
    record.note(|entry| (entry.bytes_received, entry.bytes_sent) = (sent, received));
    let refusal = match result {
        Ok(()) => return record.completed(),
        Err(Error::Io(Side::Left, error)) => {
            stream.reset_on_drop();
            Refusal::new(Reason::ClientGone, format!("the workload broke the connection: {error}"))
        }
        Err(Error::Io(Side::Right, error)) => {
            Refusal::new(Reason::UpstreamReset, format!("{} broke the connection: {error}", peer.remote))
        }
        Err(error @ Error::Idle(_)) => Refusal::new(Reason::UpstreamTimeout, error.to_string()),
    };
    record.note(|entry| entry.connection_termination_details = Some(refusal.detail.clone()));
    record.failed(&refusal);
}

#[cfg(test)]
mod tests;
