//! Ends established connections that the policies in force no longer allow.
//!
//! `opaque` and `tls` wait for it beside copying. Routes are not looked at again: a connection stays where it was opened to.

use super::{decide::Decided, tunnel::Session};
use crate::{
    authz,
    mesh::Snapshot,
    reason::{Reason, Refusal},
};

/// Ready once a configuration denies the connection, which `decide` is asked about again for every new one.
pub(super) async fn revoked<D>(session: &Session, sni: Option<&str>, decide: D) -> Refusal
where
    D: Fn(&Snapshot, &authz::Request<'_>) -> Decided,
{
    let mut changes = session.gateway.parts.snapshot.clone();
    loop {
        let snapshot = session.gateway.snapshot();
        if let Err(refusal) = decide(&snapshot, &session.request(sni, None)).outcome
            && refusal.reason == Reason::PolicyDenied
        {
            return refusal;
        }
        drop(snapshot);
        if changes.changed().await.is_err() {
            // There will be no other configuration.
            std::future::pending::<()>().await;
        }
    }
}
