//! Flows: one record per captured connection, from each side, and the bounded table that keeps them.
//!
//! `node` and `gateway` record, `admin` serves, `cli::flows` joins both sides by id.

mod join;
mod record;
mod table;

pub use join::{JoinedFlow, join};
pub use record::{FlowId, FlowRecord, Side, Verdict};
pub use table::{FlowHandle, FlowTable};
