//! Forwards connections that are neither TLS nor HTTP, by original destination. Also the second half of `tls`.

use std::sync::Arc;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{
    balancer::InFlight,
    decide::Decided,
    originate::{self, Peer, Stream, Transport},
    record::{Record, Times},
    revoke::revoked,
    tunnel::Session,
    upstream::{self, Addresses},
};
use crate::{
    authz,
    flow::{Wait, shared},
    mesh::Snapshot,
    net::copy::{self, Error, Side},
    reason::{Reason, Refusal},
    route::{Action, Forward, Upstream},
};

/// A connection that may go ahead.
pub(super) struct Planned {
    record: Record,
    snapshot: Arc<Snapshot>,
    upstream: Arc<Upstream>,
}

/// Decides about one opaque connection, without a byte of it. A refusal is on record when this returns.
pub(super) fn plan<D>(session: &Arc<Session>, decide: D) -> Result<Planned, Refusal>
where
    D: Fn(&Snapshot, &authz::Request<'_>) -> Decided,
{
    let mut record = session.record();
    session.flow.update(|flow| flow.protocol = Some(shared("tcp")));
    let snapshot = session.gateway.snapshot();
    let decided = decide(&snapshot, &session.request(None, None));
    record.decided(&decided);
    let planned = forward(decided.outcome).and_then(|Forward { upstream, .. }| {
        record.upstream(&upstream);
        upstream::require_tls(&upstream).map(|()| upstream)
    });
    match planned {
        Ok(upstream) => Ok(Planned { record, snapshot, upstream }),
        Err(refusal) => {
            record.failed(&refusal);
            Err(refusal)
        }
    }
}

/// Serves one opaque connection to its end. What is refused is reset: that is all an opaque client understands.
pub(super) async fn serve<IO, D>(io: IO, session: Arc<Session>, decide: D)
where
    IO: AsyncRead + AsyncWrite + Unpin,
    D: Fn(&Snapshot, &authz::Request<'_>) -> Decided,
{
    if let Ok(planned) = plan(&session, &decide) {
        run(io, planned, session, decide).await;
    }
}

/// Serves one opaque connection that was decided about.
pub(super) async fn run<IO, D>(mut io: IO, planned: Planned, session: Arc<Session>, decide: D)
where
    IO: AsyncRead + AsyncWrite + Unpin,
    D: Fn(&Snapshot, &authz::Request<'_>) -> Decided,
{
    let Planned { mut record, snapshot, upstream } = planned;
    let opened = open(&session, &snapshot, &upstream).await;
    // A connection may live for days; the configuration it was opened under need not.
    drop(snapshot);
    match opened {
        Ok(opened) => {
            let revoked = revoked(&session, |snapshot| decide(snapshot, &session.request(None, None)));
            splice(&mut io, opened, &session, &mut record, revoked).await;
        }
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

/// An upstream connection, counted as long as it lives.
pub(super) struct Opened {
    /// Before the stream: where no flow has its gauge, nobody is left who would read the kernel's last figures.
    peer: Peer,
    stream: Stream,
    dns_us: Option<u64>,
    _in_flight: Option<InFlight>,
}

/// Connects to the first endpoint of `upstream` that takes the connection.
pub(super) async fn open(
    session: &Session,
    snapshot: &Snapshot,
    upstream: &Upstream,
) -> Result<Opened, Refusal> {
    let began = Instant::now();
    session.flow.waits(Wait::SilentFar, began);
    let opened = connect(session, snapshot, upstream).await;
    session.flow.waited(Wait::SilentFar, began.elapsed());
    opened
}

async fn connect(session: &Session, snapshot: &Snapshot, upstream: &Upstream) -> Result<Opened, Refusal> {
    let gateway = &session.gateway;
    let transport = Transport::prepare(gateway, snapshot, upstream, None, &[])?;
    let mut last = None;
    let Addresses { list, dns_us } = upstream::addresses(session, upstream).await?;
    let balanced = list.len() > 1;
    for address in list {
        match originate::connect(address, upstream, &transport, gateway.settings.handshake_timeout).await {
            Ok((stream, peer)) => {
                let in_flight = balanced.then(|| gateway.balancer.start(address));
                return Ok(Opened { peer, stream, dns_us, _in_flight: in_flight });
            }
            Err(refusal) => last = Some(refusal),
        }
    }
    Err(last
        .unwrap_or_else(|| Refusal::new(Reason::NoEndpoint, format!("{} has no endpoint", upstream.cluster))))
}

/// Copies both ways until the end, or until `revoked` is ready, and passes a reset on.
pub(super) async fn splice<IO>(
    io: &mut IO,
    mut opened: Opened,
    session: &Session,
    record: &mut Record,
    revoked: impl Future<Output = Refusal>,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let Opened { stream, peer, dns_us, .. } = &mut opened;
    record.peer(peer, false, Times { dns_us: *dns_us, first_byte_us: None });
    session.flow.spliced();
    record.carried();
    let idle = session.gateway.settings.tcp_idle_timeout;
    let result = tokio::select! {
        result = copy::bidirectional(io, stream, &*session.flow, idle) => Ok(result),
        refusal = revoked => Err(refusal),
    };
    let (sent, received) = session.flow.bytes();
    record.note(|entry| (entry.bytes_received, entry.bytes_sent) = (sent, received));
    let refusal = match result {
        Ok(Ok(())) => return record.completed(),
        Ok(Err(Error::Io(Side::Left, error))) => {
            stream.reset_on_drop();
            Refusal::new(Reason::ClientGone, format!("the workload broke the connection: {error}"))
        }
        Ok(Err(Error::Io(Side::Right, error))) => Refusal::new(
            Reason::UpstreamReset,
            format!("{} broke the connection: {error}", peer.connection.endpoint),
        ),
        Ok(Err(error @ Error::Idle(_))) => Refusal::new(Reason::UpstreamTimeout, error.to_string()),
        Err(refusal) => {
            stream.reset_on_drop();
            refusal
        }
    };
    record.note(|entry| entry.connection_termination_details = Some(refusal.detail.clone()));
    record.failed(&refusal);
}

#[cfg(test)]
mod tests;
