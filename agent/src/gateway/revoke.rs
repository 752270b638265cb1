//! Ends established connections that the policies in force no longer allow.
//!
//! `opaque`, `tls` and WebSockets wait for it beside copying. Routes are not looked at again: a connection stays where it
//! was opened to.

use super::{decide::Decided, tunnel::Session};
use crate::{
    mesh::Snapshot,
    reason::{Reason, Refusal},
};

/// Ready once a configuration denies the connection. `decide` is asked about it under every new one.
pub(super) async fn revoked(session: &Session, decide: impl Fn(&Snapshot) -> Decided) -> Refusal {
    let mut changes = session.gateway.parts.snapshot.clone();
    loop {
        let snapshot = session.gateway.snapshot();
        if let Err(refusal) = decide(&snapshot).outcome
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
