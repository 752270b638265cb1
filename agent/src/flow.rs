//! Flows: one record per captured connection, from each side, and the bounded table that keeps them.
//!
//! `node` and `gateway` record, `admin` serves what a [`FlowQuery`] selects, `cli::flows` joins both sides by id.

mod handle;
mod id;
mod join;
mod legs;
mod live;
mod objects;
mod process;
mod query;
mod record;
mod store;
mod table;
mod tcp;
#[cfg(test)]
pub(crate) mod testing;
mod text;
mod time_spent;
mod waits;

pub use handle::FlowHandle;
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
pub use table::FlowTable;
pub use tcp::TcpFigures;
pub(crate) use text::shared;
pub use time_spent::{Leg, TimeSpent};
pub use waits::{End, Ledger, Step, Wait, Waits};
