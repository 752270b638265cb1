//! Flows: one record per captured connection, from each side, and the bounded table that keeps them.
//!
//! `node` and `gateway` record, `admin` serves what a [`FlowQuery`] selects, `cli::flows` joins both sides by id.

mod id;
mod join;
mod legs;
mod objects;
mod process;
mod query;
mod record;
mod table;
mod tcp;
#[cfg(test)]
pub(crate) mod testing;
mod time_spent;
mod waits;

pub use id::{FlowId, FlowIdError, FlowIdPrefix, FlowIdPrefixError};
pub use join::{JoinedFlow, join};
pub use legs::{
    CertificateName, Legs, TlsSession, TunnelConnection, TunnelLeg, UpstreamConnection, UpstreamLeg,
    WorkloadLeg,
};
pub use objects::{DecidedBy, Part};
pub use process::Process;
pub use query::{FlowQuery, Sort};
pub use record::{FlowRecord, Side, Verdict};
pub use table::{FlowHandle, FlowTable};
pub use tcp::TcpFigures;
pub use time_spent::{Leg, TimeSpent};
pub use waits::{End, Ledger, Step, Wait, Waits};
