//! Passes a workload's own TLS connection through, by server name. The gateway sees no plaintext.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use super::{decide::Decided, opaque, refuse, revoke::revoked, tunnel::Session};
use crate::{
    authz,
    flow::shared,
    mesh::Snapshot,
    net::linger::drain,
    reason::{Reason, Refusal},
    route::{AppProtocol, TlsMode, Upstream},
};

/// Serves one TLS connection to its end.
pub(super) async fn serve<IO, D>(mut io: IO, sni: Option<String>, session: Arc<Session>, decide: D)
where
    IO: AsyncRead + AsyncWrite + Unpin,
    D: Fn(&Snapshot, &authz::Request<'_>) -> Decided,
{
    let mut record = session.record();
    session.flow.update(|flow| {
        flow.protocol = Some(shared("tls"));
        flow.host = sni.as_deref().map(shared).or(flow.host.take());
    });
    record.note(|entry| entry.requested_server_name.clone_from(&sni));
    let snapshot = session.gateway.snapshot();
    let decided = decide(&snapshot, &session.request(sni.as_deref(), None));
    record.decided(&decided);
    let opened = async {
        let forward = opaque::forward(decided.outcome)?;
        record.upstream(&forward.upstream);
        accepts_tls(&forward.upstream)?;
        opaque::open(&session, &snapshot, &forward.upstream).await
    }
    .await;
    drop(snapshot);
    match opened {
        Ok(opened) => {
            let revoked =
                revoked(&session, |snapshot| decide(snapshot, &session.request(sni.as_deref(), None)));
            opaque::splice(&mut io, opened, &session, &mut record, revoked).await;
        }
        Err(refusal) => {
            record.failed(&refusal);
            drop(record);
            // A client that does not stay for the alert has lost nothing.
            let _ = io.write_all(&refuse::tls_alert(&refusal)).await;
            let _ = io.shutdown().await;
            drain(io).await;
        }
    }
}

/// Refuses TLS bytes where they cannot be meant: inside TLS of our own, or for a port that is plain HTTP.
fn accepts_tls(upstream: &Upstream) -> Result<(), Refusal> {
    match (&upstream.tls, upstream.protocol) {
        (TlsMode::Originate(origination), _) => Err(Refusal::new(
            Reason::BadRequest,
            format!(
                "the workload speaks TLS itself, and TLS is originated for {}: send plain HTTP, or drop the rule's tls settings",
                upstream.host
            ),
        )
        .by(origination.object.clone())),
        (TlsMode::Plain, AppProtocol::Http | AppProtocol::Http2) => Err(Refusal::new(
            Reason::BadRequest,
            format!(
                "the workload speaks TLS, and port {} of {} is declared as plain HTTP: declare it HTTPS or TLS",
                upstream.port, upstream.host
            ),
        )),
        (TlsMode::Plain, _) => Ok(()),
    }
}
