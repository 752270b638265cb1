//! The sockets that workloads have, as the kernel lists them: connections that are older than the enrolment, connections that
//! escaped, and sockets that came from elsewhere.
//!
//! `node::life` has every workload looked at, by `watch`; `node::lock` asks for the connections that are there when a link is
//! locked. The kernel programs see what begins and what leaves; this sees what
//! is there, whoever let it begin.

mod connections;
mod diag;
mod examine;
mod existing;
mod foreign;
mod holders;
mod judge;
mod message;
pub(super) mod watch;

pub(super) use self::connections::connections;
pub use self::{
    diag::{destroy, list},
    examine::{Findings, Subject, examine},
    existing::{Existing, Treatment},
    foreign::{Foreign, foreign},
    holders::Holder,
    judge::{Direct, Rules},
    message::{Protocol, Socket, State},
    watch::SocketStatus,
};
use crate::mesh::ExistingConnections;

/// What the configuration says, for all workloads.
#[derive(Clone, Debug, Default)]
pub struct SocketSettings {
    /// What they may reach directly now.
    pub direct: Direct,
    /// What they could reach directly at any time that is known of: connections stay when their permission goes.
    pub direct_ever: Direct,
    /// How existing connections of those enrolled from now on are treated.
    pub existing: ExistingConnections,
}

impl SocketSettings {
    /// The same after a change of the configuration.
    #[must_use]
    pub fn changed(&self, direct: Direct, existing: ExistingConnections) -> Self {
        Self { direct_ever: self.direct_ever.clone().and(&direct), direct, existing }
    }
}

#[cfg(test)]
mod tests {
    use super::{Direct, SocketSettings};
    use crate::mesh::ExistingConnections;

    #[test]
    fn what_was_permitted_once_is_remembered() {
        let [former, now] =
            ["10.0.0.0/8", "172.16.0.0/12"].map(|net| Direct::new(&[net.parse().unwrap()], &[]));
        let settings = SocketSettings::default()
            .changed(former.clone(), ExistingConnections::Reset)
            .changed(now.clone(), ExistingConnections::Report);
        assert_eq!((settings.direct, settings.existing), (now.clone(), ExistingConnections::Report));
        assert_eq!(settings.direct_ever, former.and(&now));
    }
}
